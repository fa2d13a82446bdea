//! What only a cluster does: it loses members, compacts, and comes back. The contract itself is `conformance`'s.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tempfile::TempDir;

use super::{CALL_DEADLINE, EtcdStore, signed};
use crate::store::conformance::{self, Place, set, snapshot};
use crate::store::{Expect, Revision, Store, StoreError, Swap, WatchEvent};

/// Clusters at once: more of them keep a small machine from whatever else is tested meanwhile.
const AT_ONCE: usize = 2;

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// A cluster of members on this machine. They end with the value.
struct Cluster {
    members: Vec<Member>,
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

struct Member {
    client: u16,
    command: Command,
    child: Option<Child>,
}

impl Cluster {
    /// Starts a cluster of so many members.
    fn new(size: usize) -> Self {
        let turn = Turn::wait();
        let dir = tempfile::Builder::new().prefix("lf-etcd").tempdir().unwrap();
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let members = ports.iter().enumerate().map(|(n, &(client, peer))| {
            let mut command = Command::new("etcd");
            let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            command.args(["--name", &format!("m{n}"), "--initial-cluster", &peers.join(",")]);
            command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
            command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
            // A member that is gone is missed soon, as on a fast network.
            command.args(["--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync"]);
            command.arg("--data-dir").arg(dir.path().join(format!("m{n}")));
            command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            Member { client, command, child: None }
        });
        let mut cluster = Self { members: members.collect(), _dir: dir, _turn: turn };
        cluster.members.iter_mut().for_each(Member::start);
        cluster.members.iter().for_each(Member::listens);
        cluster
    }

    fn address(&self) -> String {
        let members: Vec<String> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect();
        format!("etcd://{}/cell", members.join(","))
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
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "store::etcd::tests::child_of_another_test", "--nocapture"]);
        command.env("LANDFAST_TEST_STORE", self.address()).env("LANDFAST_TEST_JOB", job);
        command
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

#[test]
#[ignore = "not a test: what other tests run in a process of its own"]
fn child_of_another_test() {
    let (Ok(address), Ok(job)) = (std::env::var("LANDFAST_TEST_STORE"), std::env::var("LANDFAST_TEST_JOB")) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = EtcdStore::new(address.parse().unwrap());
    runtime.block_on(conformance::do_job(&store, &job));
}

impl Member {
    fn start(&mut self) {
        self.child = Some(self.command.spawn().expect("etcd is installed; `cargo xtask test registry` does that"));
    }

    /// Waits until somebody can connect; it answers once it is ready.
    fn listens(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.client)).is_err() {
            assert!(Instant::now() < deadline, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
            cluster.members[number / 20].kill();
        }
        if number % 20 == 15 {
            cluster.members[number / 20].start();
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
            Ok(other) => panic!("{other:?}"),
            // It goes on from where it was.
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(told, written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stands_still_costs_no_lease() {
    let cluster = Cluster::new(3);
    let store = cluster.store();
    let lease = store.grant(Duration::from_secs(20)).await.unwrap();
    // Every member has been asked.
    for _ in 0..12 {
        store.renew(&lease).await.unwrap();
    }
    for member in &cluster.members {
        member.signal("STOP");
        for _ in 0..10 {
            let asked = Instant::now();
            store.renew(&lease).await.expect("two members are there");
            assert!(asked.elapsed() < Duration::from_secs(4), "it took {:?}", asked.elapsed());
        }
        member.signal("CONT");
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
