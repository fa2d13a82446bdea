//! What only a cluster does: it loses members, compacts, and comes back. The contract itself is `conformance`'s.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use landfast_rig::{Pace, free_port, freeze, thaw};
use tempfile::TempDir;

use super::{CALL_DEADLINE, EtcdStore, signed};
use crate::store::conformance::{self, Place, set, snapshot};
use crate::store::persistent::Persistent;
use crate::store::{Expect, Revision, Store, StoreError, Swap, WatchEvent};

/// Clusters at once: more of them keep a small machine from whatever else is tested meanwhile.
const AT_ONCE: usize = 2;

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// A cluster of members on this machine. They end with the value.
struct Cluster {
    rig: landfast_rig::Cluster,
    _dir: TempDir,
    _turn: Turn,
}

/// One of the clusters that may run.
struct Turn;

impl Turn {
    /// Waits for one. Each test has a thread to wait on.
    fn wait() -> Self {
        let running = RUNNING.0.lock().unwrap();
        *RUNNING.1.wait_while(running, |running| *running == AT_ONCE).unwrap() += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap() -= 1;
        RUNNING.1.notify_one();
    }
}

impl Cluster {
    /// Starts a cluster of so many members.
    fn new(size: usize) -> Self {
        let turn = Turn::wait();
        let dir = tempfile::Builder::new().prefix("lf-etcd").tempdir().unwrap();
        let rig = landfast_rig::Cluster::start(size, dir.path(), Pace::QUICK);
        Self { rig, _dir: dir, _turn: turn }
    }

    fn address(&self) -> String {
        format!("{}/cell", self.rig.address())
    }

    fn store(&self) -> EtcdStore {
        EtcdStore::new(self.address().parse().unwrap())
    }

    /// Makes the cluster forget its history up to now.
    async fn compact(&self) {
        let store = self.store();
        let now = store.list("").await.unwrap().revision;
        store.cluster.client().await.unwrap().compact(signed(now), None).await.unwrap();
    }
}

impl Place for Cluster {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.store())
    }

    fn child(&self, job: &str) -> Command {
        in_another_process(&self.address(), job)
    }

    fn forget_history(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            set(&*self.open(), "history", "x").await;
            self.compact().await;
        })
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }
}

conformance_tests!(Cluster::new(1));

fn in_another_process(address: &str, job: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "store::etcd::tests::child_of_another_test", "--nocapture"]);
    command.env("LANDFAST_TEST_STORE", address).env("LANDFAST_TEST_JOB", job);
    command
}

/// A root of its own for one behaviour of the contract, in a cluster whose members are killed and started again.
struct Struck {
    address: String,
}

impl Place for Struck {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(Persistent(Arc::new(EtcdStore::new(self.address.parse().unwrap()))))
    }

    fn child(&self, job: &str) -> Command {
        let mut command = in_another_process(&self.address, job);
        command.env("LANDFAST_TEST_PERSISTENT", "yes");
        command
    }

    fn forget_history(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let store = self.open();
            set(&*store, "history", "x").await;
            let now = store.list("").await.unwrap().revision;
            // Done, but not answered, is done: the second time it is refused.
            let deadline = Instant::now() + Duration::from_secs(30);
            while !is_compacted(&self.address, now).await {
                assert!(Instant::now() < deadline, "the history stays");
            }
        })
    }

    /// While a leader is chosen nothing is renewed.
    fn ttl(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// Asks for a compaction, and says whether the history up to there is gone.
async fn is_compacted(address: &str, at: Revision) -> bool {
    let store = EtcdStore::new(address.parse().unwrap());
    let Ok(mut client) = store.cluster.client().await else { return false };
    match client.compact(signed(at), None).await {
        Ok(_) => true,
        Err(error) => error.to_string().contains("has been compacted"),
    }
}

/// Between two kills.
const KILL_EVERY: Duration = Duration::from_secs(10);

/// For how long a member that was killed is away.
const AWAY: Duration = Duration::from_secs(3);

/// Kills a member every ten seconds and starts it again, until told to stop.
fn strike(mut cluster: Cluster, killed: &AtomicUsize, stop: &Receiver<()>) {
    let waits = |time| stop.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    while waits(KILL_EVERY - AWAY) {
        // In turn, so that each leads at some time, and follows at another.
        let number = killed.load(Ordering::SeqCst);
        cluster.rig.members()[number % 3].kill();
        killed.store(number + 1, Ordering::SeqCst);
        if !waits(AWAY) {
            return;
        }
        cluster.rig.start_again();
    }
}

/// How many kills a run sees at least: those that come while every behaviour is shown once. `LANDFAST_TEST_KILLS` says another
/// number, for which they are shown again.
const KILLS: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_while_a_member_is_killed_every_ten_seconds() {
    let kills = std::env::var("LANDFAST_TEST_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let cluster = Cluster::new(3);
    let address = cluster.rig.address();
    let killed = Arc::new(AtomicUsize::new(0));
    let (stop, stopped) = sync_channel(1);
    let striker = std::thread::spawn({
        let killed = killed.clone();
        move || strike(cluster, &killed, &stopped)
    });
    for round in 0.. {
        conform!(|name| Struck { address: format!("{address}/{round}-{name}") });
        if killed.load(Ordering::SeqCst) >= kills {
            break;
        }
    }
    stop.send(()).unwrap();
    striker.join().unwrap();
}

#[test]
#[ignore = "not a test: what other tests run in a process of its own"]
fn child_of_another_test() {
    let (Ok(address), Ok(job)) = (std::env::var("LANDFAST_TEST_STORE"), std::env::var("LANDFAST_TEST_JOB")) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store: Arc<dyn Store> = Arc::new(EtcdStore::new(address.parse().unwrap()));
    let is_persistent = std::env::var_os("LANDFAST_TEST_PERSISTENT").is_some();
    let store = if is_persistent { Arc::new(Persistent(store)) } else { store };
    runtime.block_on(conformance::do_job(&*store, &job));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_may_die_one_after_the_other_and_every_change_is_told_once() {
    let mut cluster = Cluster::new(3);
    let store = cluster.store();
    let mut watch = store.watch("n/", None);
    snapshot(&mut watch).await;
    let mut written = Vec::new();
    for number in 0..60 {
        if number % 20 == 5 {
            cluster.rig.members()[number / 20].kill();
        }
        if number % 20 == 15 {
            cluster.rig.members()[number / 20].start();
        }
        let key = format!("n/{number}");
        written.push((key.clone(), create(&store, &key).await));
    }
    let mut told = Vec::new();
    while told.len() < written.len() {
        match watch.next().await {
            Ok(WatchEvent::Changes(changes)) => {
                told.extend(changes.into_iter().map(|change| (change.key, change.revision)));
            }
            // It goes on from where it was.
            Ok(WatchEvent::Back) | Err(StoreError::Unavailable(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(told, written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stands_still_costs_no_lease() {
    let mut cluster = Cluster::new(3);
    let store = cluster.store();
    let lease = store.grant(Duration::from_secs(20)).await.unwrap();
    // Every member has been asked.
    for _ in 0..12 {
        store.renew(&lease).await.unwrap();
    }
    for member in cluster.rig.members() {
        let pid = member.pid().unwrap();
        freeze(pid);
        for _ in 0..10 {
            let asked = Instant::now();
            store.renew(&lease).await.expect("two members are there");
            assert!(asked.elapsed() < Duration::from_secs(4), "it took {:?}", asked.elapsed());
        }
        thaw(pid);
    }
}

/// Long enough for a member to lose its patience with a client that asks for signs of life too often: three of them.
const QUIET: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_is_left_alone() {
    let cluster = Cluster::new(1);
    let mut watch = cluster.store().watch("n/", None);
    snapshot(&mut watch).await;
    let said = tokio::time::timeout(QUIET, watch.next()).await;
    assert!(said.is_err(), "nothing changed, and it said {said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_an_error_for_who_never_waits_long() {
    let mut cluster = Cluster::new(1);
    let store = cluster.store();
    let mut watch = store.watch("n/", None);
    snapshot(&mut watch).await;
    cluster.rig.kill();
    assert!(matches!(watch.next().await, Err(StoreError::Unavailable(_))));
    cluster.rig.start_again();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut next = async || loop {
        match tokio::time::timeout(Duration::from_millis(5), watch.next()).await {
            Ok(Ok(event)) => return event,
            Ok(Err(StoreError::Unavailable(_))) | Err(_) => assert!(Instant::now() < deadline, "it hears nothing"),
            Ok(Err(error)) => panic!("{error}"),
        }
    };
    assert_eq!(next().await, WatchEvent::Back);
    create(&store, "n/1").await;
    let WatchEvent::Changes(changes) = next().await else { panic!("it was said already") };
    assert_eq!(changes[0].key, "n/1");
}

/// Creates a key, whatever happens meanwhile: an error says nothing, so it is looked at again.
async fn create(store: &EtcdStore, key: &str) -> Revision {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match store.put(key, Expect::Absent, "x".into(), None).await {
            Ok(Swap::Done(revision)) => return revision,
            Ok(Swap::Conflict(Some(entry))) => return entry.revision,
            Ok(Swap::Conflict(None)) => {}
            Err(error) => {
                assert!(Instant::now() < deadline, "never: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_unavailable_within_the_deadline() {
    let store = EtcdStore::new(format!("etcd://127.0.0.1:{}", free_port()).parse().unwrap());
    let asked = Instant::now();
    assert!(matches!(store.get("x").await, Err(StoreError::Unavailable(_))));
    assert!(asked.elapsed() < 2 * CALL_DEADLINE);
}
