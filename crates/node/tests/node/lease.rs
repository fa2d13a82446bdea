//! A node that cannot reach its store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use landfast_core::ErrorCode;
use landfast_core::lease::{FENCE_AFTER, STOP_AFTER, TTL};
use landfast_core::record::{Desired, InstanceSpec, Phase, Restart, keys};
use landfast_net::relay::Target;
use landfast_registry::store::{
    Expect, LeaseId, Listing, RenewError, Revision, Store, StoreError, Swap, Watch, WatchEvent,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::harness::{TestCell, eventually, processes_of};

/// The real store behind a cable that can be pulled out.
struct Cable {
    store: Arc<dyn Store>,
    is_out: AtomicBool,
    /// So many further reads of instances' records are not answered.
    unread: AtomicUsize,
    /// Whoever writes an instance's record panics.
    panics: AtomicBool,
    panicked: AtomicUsize,
}

impl Cable {
    fn of(cell: &TestCell) -> Arc<Self> {
        let store = cell.store.clone();
        let (is_out, panics) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { store, is_out, unread: AtomicUsize::new(0), panics, panicked: AtomicUsize::new(0) })
    }

    fn panics(&self, key: &str) {
        if key.starts_with(keys::INSTANCES) && self.panics.load(Ordering::SeqCst) {
            self.panicked.fetch_add(1, Ordering::SeqCst);
            panic!("planted: {key} is written");
        }
    }

    fn pull(&self, out: bool) {
        self.is_out.store(out, Ordering::SeqCst);
    }

    fn through<'a, T: Send + 'a, E: From<StoreError> + Send + 'a>(
        &'a self,
        call: BoxFuture<'a, Result<T, E>>,
    ) -> BoxFuture<'a, Result<T, E>> {
        if self.is_out.load(Ordering::SeqCst) {
            return ready(Err(E::from(StoreError::Unavailable("the cable is out".to_owned())))).boxed();
        }
        call
    }
}

impl Store for Cable {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<landfast_registry::store::Entry>, StoreError>> {
        let is_left = |left: usize| left.checked_sub(1);
        if key.starts_with(keys::INSTANCES)
            && self.unread.try_update(Ordering::SeqCst, Ordering::SeqCst, is_left).is_ok()
        {
            return ready(Err(StoreError::Unavailable("it is not read".to_owned()))).boxed();
        }
        self.through(self.store.get(key))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.through(self.store.list(prefix))
    }

    fn page<'a>(&'a self, prefix: &'a str, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.through(self.store.page(prefix, after, limit))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Bytes,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>> {
        self.panics(key);
        self.through(self.store.put(key, expect, value, lease))
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<Swap, StoreError>> {
        self.through(self.store.delete(key, expect))
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        self.through(self.store.grant(ttl))
    }

    fn renew<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), RenewError>> {
        self.through(self.store.renew(lease))
    }

    fn revoke<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), StoreError>> {
        self.through(self.store.revoke(lease))
    }

    fn watch(&self, prefix: &str, from: Option<Revision>) -> Watch {
        self.store.watch(prefix, from)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_may_be_given_is_silent_and_ends_before_its_nodes_lease_lapses() {
    let cell = TestCell::new();
    let cable = Cable::of(&cell);
    let node = cell.try_node_with(cell.config("a"), cable.clone()).await.unwrap();
    let spec = InstanceSpec { restart: Restart::Always, ..InstanceSpec::default() };
    let id = cell.place(node.id(), spec).await;
    let instance = cell.settled(id).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Target::Port(listener.local_addr().unwrap().port());
    let mut carried = cell.dial(&instance, port).await.unwrap();

    let mut nodes = cell.store.watch(keys::NODES, None);
    assert!(matches!(nodes.next().await, Ok(WatchEvent::Snapshot(_))));
    let pulled = Instant::now();
    cable.pull(true);
    // Without an error of the store's nothing is lost at once.
    cell.shell(&instance, "true").await;
    while matches!(carried.read(&mut [0; 64]).await, Ok(1..)) {}
    let silent = pulled.elapsed();
    assert_eq!(cell.refusal(&instance).await, ErrorCode::NodeDraining);
    eventually("its processes are gone", async || processes_of(instance.id).is_empty()).await;
    let stopped = pulled.elapsed();
    while !matches!(nodes.next().await, Ok(WatchEvent::Changes(changes)) if changes[0].value.is_none()) {}
    let lapsed = pulled.elapsed();
    println!("silent after {silent:?}, stopped after {stopped:?}, lapsed after {lapsed:?}");
    assert!(silent <= FENCE_AFTER + Duration::from_millis(200), "{silent:?}");
    assert!(stopped <= STOP_AFTER + Duration::from_millis(400), "{stopped:?}");
    assert!(stopped < lapsed && lapsed <= TTL + Duration::from_secs(2));

    // The keeper says that it was lost; the node comes back and takes new instances.
    cell.update(instance.id, |instance| {
        landfast_core::lifecycle::lost(instance, instance.generation, 1).unwrap();
    })
    .await;
    cable.pull(false);
    eventually("it is registered again", async || {
        landfast_registry::records::node(&*cell.store, node.id()).await.unwrap().is_some()
    })
    .await;
    assert_eq!(cell.refusal(&instance).await, ErrorCode::InstanceLost);
    let id = cell.place(node.id(), InstanceSpec::default()).await;
    assert_eq!(cell.settled(id).await.phase, Phase::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_else_can_be_given_goes_on_without_a_lease_until_its_node_hears_of_its_end() {
    let cell = TestCell::new();
    let cable = Cable::of(&cell);
    let node = cell.try_node_with(cell.config("a"), cable.clone()).await.unwrap();
    let (kept, lost) = (cell.run(&node).await, cell.run(&node).await);
    let mut nodes = cell.store.watch(keys::NODES, None);
    assert!(matches!(nodes.next().await, Ok(WatchEvent::Snapshot(_))));
    cable.pull(true);
    while !matches!(nodes.next().await, Ok(WatchEvent::Changes(changes)) if changes[0].value.is_none()) {}
    cell.shell(&kept, "true").await;
    cell.shell(&lost, "true").await;

    cell.update(lost.id, |instance| {
        landfast_core::lifecycle::lost(instance, instance.generation, 1).unwrap();
    })
    .await;
    cable.pull(false);
    eventually("what is lost is ended", async || processes_of(lost.id).is_empty()).await;
    assert_eq!(cell.refusal(&lost).await, ErrorCode::InstanceLost);
    cell.shell(&kept, "true").await;
    let record = cell.settled(kept.id).await;
    assert_eq!((record.phase, record.generation), (Phase::Running, kept.generation));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_its_node_ended_for_want_of_a_lease_was_lost_and_did_not_fail() {
    let cell = TestCell::new();
    let cable = Cable::of(&cell);
    let node = cell.try_node_with(cell.config("a"), cable.clone()).await.unwrap();
    let spec = InstanceSpec { restart: Restart::Always, ..InstanceSpec::default() };
    let id = cell.place(node.id(), spec).await;
    let instance = cell.settled(id).await;
    cable.pull(true);
    eventually("its processes are gone", async || processes_of(instance.id).is_empty()).await;
    // No keeper has seen the lease lapse: the node is back first. Meanwhile a move or a claim has given it a generation more.
    cell.update(instance.id, |instance| instance.generation = instance.generation.next()).await;
    cable.pull(false);
    let ended = cell.until(instance.id, |instance| instance.phase.is_end()).await;
    assert_eq!(ended.phase, Phase::Lost, "{:?}", ended.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_removed_meanwhile_is_heard_of_although_the_store_errs_at_first() {
    let cell = TestCell::new();
    let cable = Cable::of(&cell);
    let node = cell.try_node_with(cell.config("a"), cable.clone()).await.unwrap();
    let (kept, removed) = (cell.run(&node).await, cell.run(&node).await);
    let mut nodes = cell.store.watch(keys::NODES, None);
    assert!(matches!(nodes.next().await, Ok(WatchEvent::Snapshot(_))));
    cable.pull(true);
    while !matches!(nodes.next().await, Ok(WatchEvent::Changes(changes)) if changes[0].value.is_none()) {}
    let (_, revision) = landfast_registry::records::instance(&*cell.store, removed.id).await.unwrap().unwrap();
    cell.store.delete(&keys::instance(removed.id), Expect::Revision(revision)).await.unwrap();
    cable.unread.store(3, Ordering::SeqCst);
    cable.pull(false);
    eventually("what has no record is ended", async || processes_of(removed.id).is_empty()).await;
    assert_eq!(cable.unread.load(Ordering::SeqCst), 0);
    assert!(cell.instance_dir(removed.id).exists(), "its files are kept");
    cell.shell(&kept, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_task_panics_is_looked_after_by_another() {
    let cell = TestCell::new();
    let cable = Cable::of(&cell);
    let node = cell.try_node_with(cell.config("a"), cable.clone()).await.unwrap();
    let (struck, other) = (cell.run(&node).await, cell.run(&node).await);
    cable.panics.store(true, Ordering::SeqCst);
    cell.desire(struck.id, Desired::Stopped).await;
    eventually("its task has panicked", async || cable.panicked.load(Ordering::SeqCst) > 1).await;
    cell.shell(&other, "true").await;
    cable.panics.store(false, Ordering::SeqCst);
    let stopped = cell.until(struck.id, |instance| instance.phase.is_end()).await;
    assert_eq!(stopped.phase, Phase::Stopped, "{:?}", stopped.reason);
    assert!(processes_of(struck.id).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_task_panics_ends_with_the_lease_all_the_same() {
    let cell = TestCell::new();
    let cable = Cable::of(&cell);
    let node = cell.try_node_with(cell.config("a"), cable.clone()).await.unwrap();
    // Its task writes that it is idle, and panics at that.
    let spec = InstanceSpec { restart: Restart::Always, idle_timeout: Some(1), ..InstanceSpec::default() };
    let id = cell.place(node.id(), spec).await;
    cell.settled(id).await;
    cable.panics.store(true, Ordering::SeqCst);
    eventually("its task has panicked", async || cable.panicked.load(Ordering::SeqCst) > 1).await;
    assert!(!processes_of(id).is_empty());
    let pulled = Instant::now();
    cable.pull(true);
    eventually("its processes are gone", async || processes_of(id).is_empty()).await;
    assert!(pulled.elapsed() < TTL, "{:?}", pulled.elapsed());
}
