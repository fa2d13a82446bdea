//! The keeper at work: one task that shows [`core::keeper`](landfast_core::keeper) the store and carries out its steps.
//!
//! Every API server runs one. They do not know of each other and need not: each step is a compare-and-swap on the record
//! it was decided for, so of two keepers that decide the same, one writes and the other finds the record outgrown.

use std::str::FromStr;
use std::sync::Arc;

use landfast_core::InstanceId;
use landfast_core::keeper::{Applied, Keeper, Step};
use landfast_core::lifecycle::StepError;
use landfast_core::record::{Drain, Instance, Node, keys};
use landfast_net::clock;
use landfast_net::role::CancellationToken;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::records;
use crate::store::{Change, Entry, Expect, Store, StoreError, Swap, Watch, WatchEvent};
use crate::sweep;

/// Keeps the cell in order until told to stop. Steps that are under way then are left to the next keeper.
pub(crate) async fn run(store: Arc<dyn Store>, stop: CancellationToken) {
    let shell = Shell::new(store.clone());
    tokio::select! {
        () = stop.cancelled() => {}
        () = shell.run() => {}
        () = sweep::run(&*store) => {}
    }
}

struct Shell {
    store: Arc<dyn Store>,
    keeper: Keeper,
    nodes: Follower,
    drains: Follower,
    instances: Follower,
    /// The steps under way; the keeper bounds their number.
    steps: JoinSet<(InstanceId, Result<(), NotTaken>)>,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("the record has outgrown it: {0}")]
    Outgrown(StepError),
    #[error("somebody else changed the record first, or its node is there after all")]
    Conflict,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Shell {
    fn new(store: Arc<dyn Store>) -> Self {
        let follow = |prefix| Follower::new(store.clone(), prefix);
        let (nodes, drains, instances) = (follow(keys::NODES), follow(keys::DRAINS), follow(keys::INSTANCES));
        Self { keeper: Keeper::new(clock::now()), store, nodes, drains, instances, steps: JoinSet::new() }
    }

    async fn run(mut self) {
        loop {
            if std::mem::take(&mut self.nodes.is_back) {
                self.keeper.handle_in_touch(clock::now());
            }
            while let Some(step) = self.keeper.poll(clock::now(), clock::unix_millis()) {
                self.steps.spawn(take(self.store.clone(), step));
            }
            tokio::select! {
                event = self.nodes.next() => self.handle_nodes(event),
                event = self.drains.next() => self.handle_drains(event),
                event = self.instances.next() => self.handle_instances(event),
                Some(taken) = self.steps.join_next() => self.handle_taken(taken),
                () = clock::sleep_until(self.keeper.next_deadline()) => {}
            }
        }
    }

    fn handle_nodes(&mut self, event: WatchEvent) {
        let now = clock::now();
        match event {
            WatchEvent::Snapshot(listing) => {
                let nodes = records::readable::<Node>(listing.entries).into_iter().map(|(node, _)| node);
                self.keeper.handle_nodes(nodes, now);
            }
            WatchEvent::Changes(changes) => {
                for (id, node) in read_changes(keys::NODES, changes) {
                    self.keeper.handle_node(id, node, now);
                }
            }
            WatchEvent::Resync | WatchEvent::Back => {}
        }
    }

    fn handle_drains(&mut self, event: WatchEvent) {
        let now = clock::now();
        match event {
            WatchEvent::Snapshot(listing) => {
                let node = |entry: &Entry| entry.key.strip_prefix(keys::DRAINS)?.parse().ok();
                self.keeper.handle_drains(listing.entries.iter().filter_map(node).collect(), now);
            }
            WatchEvent::Changes(changes) => {
                for (id, drain) in read_changes::<_, Drain>(keys::DRAINS, changes) {
                    self.keeper.handle_drain(id, drain.is_some(), now);
                }
            }
            WatchEvent::Resync | WatchEvent::Back => {}
        }
    }

    fn handle_instances(&mut self, event: WatchEvent) {
        let now = clock::now();
        match event {
            WatchEvent::Snapshot(listing) => {
                let instances = records::readable::<Instance>(listing.entries);
                self.keeper.handle_instances(instances.iter().map(|(instance, _)| instance), now);
            }
            WatchEvent::Changes(changes) => {
                for (id, instance) in read_changes(keys::INSTANCES, changes) {
                    self.keeper.handle_instance(id, Option::<Instance>::as_ref(&instance), now);
                }
            }
            WatchEvent::Resync | WatchEvent::Back => {}
        }
    }

    fn handle_taken(&mut self, taken: Result<(InstanceId, Result<(), NotTaken>), tokio::task::JoinError>) {
        // What a step changed is heard from the watch; only what it did not change is told here.
        match taken {
            Ok((_, Ok(()))) => {}
            Ok((id, Err(why))) => {
                if let NotTaken::Store(error) = &why {
                    tracing::debug!(instance = %id, %error, "a step of the keeper could not be written");
                } else {
                    tracing::debug!(instance = %id, %why, "a step of the keeper was not taken");
                }
                self.keeper.handle_refused(id, clock::now());
            }
            // The keeper decides anew when it hears nothing for some seconds.
            Err(error) => tracing::error!(%error, "a step of the keeper ended badly"),
        }
    }
}

/// A watch whose errors are said once and then waited out: what the keeper has seen stays true until it hears more.
struct Follower {
    store: Arc<dyn Store>,
    prefix: &'static str,
    watch: Watch,
    failing: bool,
    /// It failed, and does not any more; nobody has been told yet.
    is_back: bool,
}

impl Follower {
    fn new(store: Arc<dyn Store>, prefix: &'static str) -> Self {
        let watch = store.watch(prefix, None);
        Self { store, prefix, watch, failing: false, is_back: false }
    }

    async fn next(&mut self) -> WatchEvent {
        loop {
            match self.watch.next().await {
                Ok(event) => {
                    if std::mem::take(&mut self.failing) {
                        self.is_back = true;
                        tracing::debug!(prefix = self.prefix, "the keeper sees the store again");
                    }
                    return event;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::debug!(%error, prefix = self.prefix, "the keeper does not see the store and waits");
                        // A new watch begins with a listing, and so tells at once that the store answers again.
                        self.watch = self.store.watch(self.prefix, None);
                    }
                }
            }
        }
    }
}

/// Reads the records of changes. A key or record that cannot be understood is left out and logged.
fn read_changes<Id: FromStr, T: DeserializeOwned>(prefix: &str, changes: Vec<Change>) -> Vec<(Id, Option<T>)> {
    let read = |change: Change| {
        let id = change.key.strip_prefix(prefix)?.parse().ok()?;
        let record = change.value.map(|value| records::decode(&change.key, &value)).transpose();
        record
            .inspect_err(|error| tracing::error!(%error, "a record cannot be understood and is left out"))
            .ok()
            .map(|record| (id, record))
    };
    changes.into_iter().filter_map(read).collect()
}

/// Takes one step: a single compare-and-swap. If somebody else is first, the keeper hears what they did and decides anew.
async fn take(store: Arc<dyn Store>, step: Step) -> (InstanceId, Result<(), NotTaken>) {
    (step.instance, try_take(&*store, &step).await)
}

async fn try_take(store: &dyn Store, step: &Step) -> Result<(), NotTaken> {
    let id = step.instance;
    let (mut record, revision) = records::instance(store, id).await?.ok_or(NotTaken::Conflict)?;
    // Looked for only now that the record is read: a node that comes back from here on claims its instances, which makes
    // this write a conflict.
    if let Some(node) = step.kind.absent_node(&record)
        && store.get(&keys::node(node)).await?.is_some()
    {
        return Err(NotTaken::Conflict);
    }
    let (key, expect) = (keys::instance(id), Expect::Revision(revision));
    let swap = match step.kind.apply(&mut record, clock::unix_millis()).map_err(NotTaken::Outgrown)? {
        Applied::Changed => store.put(&key, expect, records::encode(&record)?, None).await?,
        Applied::Removed => store.delete(&key, expect).await?,
    };
    match swap {
        Swap::Done(_) => {
            let (phase, generation) = (record.phase.as_str(), record.generation.0);
            tracing::info!(instance = %id, phase, generation, reason = record.reason, "the keeper took a step");
            Ok(())
        }
        Swap::Conflict(_) => Err(NotTaken::Conflict),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use landfast_core::NodeId;
    use landfast_core::keeper::StepKind;
    use landfast_core::lifecycle;
    use landfast_core::record::{Desired, Generation, InstanceSpec, Kind, Phase, Restart};
    use landfast_net::random;
    use tempfile::TempDir;

    use super::*;
    use crate::store::LeaseId;
    use crate::store::conformance::soon;
    use crate::store::embedded::EmbeddedStore;

    /// A cell with a keeper, in which the test is the nodes.
    struct Cell {
        store: Arc<dyn Store>,
        stop: CancellationToken,
        _dir: TempDir,
    }

    impl Cell {
        fn start() -> Self {
            let cell = Self::without_a_keeper();
            cell.keep();
            cell
        }

        fn keep(&self) {
            tokio::spawn(run(self.store.clone(), self.stop.clone()));
        }

        fn without_a_keeper() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&dir.path().join("cell.db")).unwrap());
            Self { store, stop: CancellationToken::new(), _dir: dir }
        }

        async fn add_node(&self, capacity: u32) -> (NodeId, LeaseId) {
            let id = random::node_id();
            let node = Node {
                id,
                name: id.to_string(),
                host: "h".to_owned(),
                address: "127.0.0.1:1".to_owned(),
                capacity,
                labels: BTreeMap::new(),
                draining: false,
                isolation: "none: test".to_owned(),
                started_at: 0,
            };
            let lease = self.store.grant(Duration::from_secs(60)).await.unwrap();
            let value = records::encode(&node).unwrap();
            self.store.put(&keys::node(id), Expect::Absent, value, Some(&lease)).await.unwrap();
            (id, lease)
        }

        async fn create(&self, restart: Restart) -> InstanceId {
            let id = random::instance_id();
            let instance = Instance {
                id,
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
            };
            records::create_instance(&*self.store, &instance).await.unwrap();
            id
        }

        async fn comes_to(&self, id: InstanceId, phase: Phase) -> Instance {
            let mut watch = self.store.watch(&keys::instance(id), None);
            soon(async {
                loop {
                    watch.next().await.unwrap();
                    let (instance, _) = records::instance(&*self.store, id).await.unwrap().unwrap();
                    if instance.phase == phase {
                        return instance;
                    }
                }
            })
            .await
        }
    }

    impl Drop for Cell {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test]
    async fn a_new_instance_is_placed() {
        let cell = Cell::start();
        let (node, _) = cell.add_node(10).await;
        let id = cell.create(Restart::Never).await;
        let placed = cell.comes_to(id, Phase::Starting).await;
        assert_eq!((placed.node, placed.generation, placed.host.as_deref()), (Some(node), Generation(1), Some("h")));
        assert_eq!(placed.address.as_deref(), Some("127.0.0.1:1"));
    }

    #[tokio::test]
    async fn an_instance_waits_for_a_node_that_fits() {
        let cell = Cell::start();
        let id = cell.create(Restart::Never).await;
        cell.add_node(0).await;
        let (node, _) = cell.add_node(1).await;
        assert_eq!(cell.comes_to(id, Phase::Starting).await.node, Some(node));
    }

    #[tokio::test]
    async fn a_drained_node_is_given_nothing_until_it_is_drained_no_more() {
        let cell = Cell::without_a_keeper();
        let (drained, _) = cell.add_node(100).await;
        records::set_drain(&*cell.store, drained, Some(Drain { since: 1 })).await.unwrap();
        let id = cell.create(Restart::Never).await;
        cell.keep();
        let mut watch = cell.store.watch(&keys::instance(id), None);
        let why = soon(async {
            loop {
                watch.next().await.unwrap();
                let (record, _) = records::instance(&*cell.store, id).await.unwrap().unwrap();
                assert_eq!(record.phase, Phase::Pending);
                if let Some(why) = record.reason {
                    return why;
                }
            }
        })
        .await;
        assert!(why.contains("draining"), "{why}");
        records::set_drain(&*cell.store, drained, None).await.unwrap();
        assert_eq!(cell.comes_to(id, Phase::Starting).await.node, Some(drained));
    }

    #[tokio::test]
    async fn two_keepers_place_an_instance_once() {
        let cell = Cell::start();
        cell.keep();
        cell.add_node(100).await;
        cell.add_node(100).await;
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(cell.create(Restart::Never).await);
        }
        for id in ids {
            assert_eq!(cell.comes_to(id, Phase::Starting).await.generation, Generation(1));
        }
    }

    #[tokio::test]
    async fn an_instance_that_failed_and_shall_always_run_is_placed_again() {
        let cell = Cell::start();
        let (node, _) = cell.add_node(10).await;
        let id = cell.create(Restart::Always).await;
        let generation = cell.comes_to(id, Phase::Starting).await.generation;
        let fail =
            |record: &mut Instance| Ok(lifecycle::failed(record, node, generation, "a test", clock::unix_millis())?);
        records::update_instance(&*cell.store, id, fail).await.unwrap();
        assert_eq!(cell.comes_to(id, Phase::Starting).await.generation, Generation(2));
    }

    #[tokio::test]
    async fn an_instance_that_nobody_has_ends_as_desired() {
        let cell = Cell::start();
        let id = cell.create(Restart::Never).await;
        records::update_instance(&*cell.store, id, |record| Ok(lifecycle::desire_deleted(record)?)).await.unwrap();
        assert!(cell.comes_to(id, Phase::Deleted).await.ended_at.is_some());
    }

    #[tokio::test]
    async fn an_instance_is_lost_with_its_nodes_lease_but_not_before_the_keeper_was_up_for_one() {
        let cell = Cell::start();
        let since = clock::now();
        let (node, lease) = cell.add_node(10).await;
        let id = cell.create(Restart::Never).await;
        cell.comes_to(id, Phase::Starting).await;
        cell.store.revoke(&lease).await.unwrap();
        let lost = cell.comes_to(id, Phase::Lost).await;
        assert!(lost.reason.unwrap().contains(&node.to_string()));
        assert!(clock::now().since(since) >= landfast_core::lease::TTL);
    }

    #[tokio::test]
    async fn a_node_whose_record_is_there_is_never_called_lost_however_stale_the_keepers_news() {
        let cell = Cell::start();
        let (node, lease) = cell.add_node(10).await;
        let id = cell.create(Restart::Never).await;
        let placed = cell.comes_to(id, Phase::Starting).await;
        // What a keeper decides that has not heard of the node for a long time.
        let stale = |kind| Step { instance: id, kind };
        let lost = stale(StepKind::Lost(placed.generation));
        assert!(matches!(try_take(&*cell.store, &lost).await, Err(NotTaken::Conflict)));
        records::update_instance(&*cell.store, id, |record| Ok(lifecycle::desire_stopped(record)?)).await.unwrap();
        let end = stale(StepKind::End(placed.generation));
        assert!(matches!(try_take(&*cell.store, &end).await, Err(NotTaken::Conflict)));
        let (record, _) = records::instance(&*cell.store, id).await.unwrap().unwrap();
        assert_eq!((record.phase, record.node), (Phase::Starting, Some(node)));

        cell.store.revoke(&lease).await.unwrap();
        try_take(&*cell.store, &end).await.unwrap();
        assert!(cell.comes_to(id, Phase::Stopped).await.ended_at.is_some());
    }

    #[tokio::test]
    async fn a_tombstone_that_has_had_its_time_is_removed() {
        let cell = Cell::start();
        let id = cell.create(Restart::Never).await;
        records::update_instance(&*cell.store, id, |record| {
            (record.phase, record.desired, record.ended_at) = (Phase::Deleted, Desired::Deleted, Some(1));
            Ok(())
        })
        .await
        .unwrap();
        let mut watch = cell.store.watch(&keys::instance(id), None);
        soon(async {
            while records::instance(&*cell.store, id).await.unwrap().is_some() {
                watch.next().await.unwrap();
            }
        })
        .await;
    }
}
