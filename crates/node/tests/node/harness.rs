//! A cell of real nodes, agents and a real store in a directory of its own; the test plays API, keeper and gateway.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http::request::Builder;
use http_body_util::Full;
use landfast_core::lifecycle;
use landfast_core::record::{Desired, Generation, Instance, InstanceSpec, Kind, Node, Phase, keys};
use landfast_core::{ErrorCode, InstanceId, NodeId, Problem};
use landfast_net::http::call;
use landfast_net::relay::{DialError, Route, Target, dial};
use landfast_net::role::CancellationToken;
use landfast_net::socket::Socket;
use landfast_net::{clock, random};
use landfast_node::{Config, Isolation, Running};
use landfast_registry::cell::Cell;
use landfast_registry::records;
use landfast_registry::store::{Store, WatchEvent};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use crate::programs::command;

/// Far more than anything here takes on a busy machine; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory with its store.
pub(crate) struct TestCell {
    dir: tempfile::TempDir,
    pub(crate) cell: Cell,
    pub(crate) store: Arc<dyn Store>,
}

/// A node in this process.
pub(crate) struct TestNode {
    pub(crate) running: Running,
    stop: CancellationToken,
}

/// A node in a process of its own, killed when dropped.
pub(crate) struct ChildNode {
    child: tokio::process::Child,
    pub(crate) id: NodeId,
}

impl TestCell {
    pub(crate) fn new() -> Self {
        let private = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("lf").permissions(private).tempdir().unwrap();
        let cell = Cell::open(dir.path()).unwrap();
        let store = cell.store().unwrap();
        Self { dir, cell, store }
    }

    pub(crate) fn data(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn instance_dir(&self, id: InstanceId) -> PathBuf {
        self.data().join("instances").join(id.to_string())
    }

    pub(crate) fn config(&self, name: &str) -> Config {
        Config {
            data: self.data().to_owned(),
            name: name.to_owned(),
            // What these tests let loose must not meet the machine that runs them.
            isolation: Isolation::Bubblewrap,
            agent_command: command("agent"),
            ..Config::default()
        }
    }

    pub(crate) async fn try_node(&self, config: Config) -> Result<TestNode, Problem> {
        self.try_node_with(config, self.store.clone()).await
    }

    /// A node that reaches the store in a way of its own.
    pub(crate) async fn try_node_with(&self, config: Config, store: Arc<dyn Store>) -> Result<TestNode, Problem> {
        let stop = CancellationToken::new();
        let running = landfast_node::start(config, self.cell.credential().clone(), store, stop.clone()).await?;
        Ok(TestNode { running, stop })
    }

    pub(crate) async fn node(&self, name: &str) -> TestNode {
        self.try_node(self.config(name)).await.unwrap()
    }

    /// Starts a node in a process of its own, and waits until its record is there.
    pub(crate) async fn child_node(&self, name: &str) -> ChildNode {
        let started_at = clock::unix_millis();
        let line = command("node");
        let child = tokio::process::Command::new(&line[0])
            .args(&line[1..])
            .args([self.data(), Path::new(name)])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let fresh = |node: &Node| node.name == name && node.started_at >= started_at;
        let id = self.wait_for(keys::NODES, fresh).await.id;
        ChildNode { child, id }
    }

    /// Creates an instance and gives it to a node, as the API and the keeper would.
    pub(crate) async fn place(&self, node: NodeId, spec: InstanceSpec) -> InstanceId {
        let mut instance = pending(spec);
        let node = self.node_record(node).await;
        lifecycle::place(&mut instance, &node).unwrap();
        records::create_instance(&*self.store, &instance).await.unwrap();
        instance.id
    }

    /// A running instance.
    pub(crate) async fn run(&self, node: &TestNode) -> Instance {
        self.run_with(node, InstanceSpec::default()).await
    }

    pub(crate) async fn run_with(&self, node: &TestNode, spec: InstanceSpec) -> Instance {
        let id = self.place(node.running.id, spec).await;
        let instance = self.settled(id).await;
        assert_eq!(instance.phase, Phase::Running, "{:?}\n{}", instance.reason, self.agent_log(id));
        instance
    }

    /// The instance once it has neither to start nor to move.
    pub(crate) async fn settled(&self, id: InstanceId) -> Instance {
        self.until(id, |instance| !matches!(instance.phase, Phase::Pending | Phase::Starting | Phase::Moving)).await
    }

    pub(crate) async fn until(&self, id: InstanceId, is: impl Fn(&Instance) -> bool) -> Instance {
        self.wait_for(&keys::instance(id), is).await
    }

    pub(crate) async fn update(&self, id: InstanceId, change: impl Fn(&mut Instance)) -> Instance {
        let change = |instance: &mut Instance| {
            change(instance);
            Ok(())
        };
        records::update_instance(&*self.store, id, change).await.unwrap()
    }

    pub(crate) async fn desire(&self, id: InstanceId, desired: Desired) {
        self.update(id, |instance| instance.desired = desired).await;
    }

    /// Asks for a move, and waits until it is over.
    pub(crate) async fn move_to(&self, id: InstanceId, to: &TestNode) -> Instance {
        let target = self.node_record(to.running.id).await;
        self.update(id, |instance| lifecycle::begin_move(instance, &target).unwrap()).await;
        self.settled(id).await
    }

    pub(crate) async fn node_record(&self, id: NodeId) -> Node {
        records::node(&*self.store, id).await.unwrap().expect("the node's record").0
    }

    pub(crate) async fn dial(&self, instance: &Instance, target: Target) -> Result<Socket, DialError> {
        dial(&route(instance), target, self.cell.credential(), PATIENCE).await
    }

    /// The code with which a dial is refused.
    pub(crate) async fn refusal(&self, instance: &Instance) -> ErrorCode {
        self.dial(instance, Target::Agent).await.expect_err("a refusal").code()
    }

    /// Starts a process in the instance and returns its id.
    pub(crate) async fn start(&self, instance: &Instance, argv: &[&str]) -> String {
        let started = self.post(instance, "/processes", &serde_json::json!({ "argv": argv })).await;
        started["id"].as_str().unwrap().to_owned()
    }

    /// Runs a shell command in the instance and returns what it said and with what it exited.
    pub(crate) async fn shell(&self, instance: &Instance, command: &str) -> (String, i64) {
        let body = self.post(instance, "/exec", &serde_json::json!({ "shell": command })).await;
        let said = format!("{}{}", body["stdout"].as_str().unwrap_or(""), body["stderr"].as_str().unwrap_or(""));
        (said, body["exit"]["code"].as_i64().unwrap_or(-1))
    }

    async fn post(&self, instance: &Instance, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let request = Request::post(path).header("content-type", "application/json");
        self.ask(instance, request, body.to_string()).await
    }

    /// Asks the instance's agent something.
    pub(crate) async fn get(&self, instance: &Instance, path: &str) -> serde_json::Value {
        self.ask(instance, Request::get(path), String::new()).await
    }

    async fn ask(&self, instance: &Instance, request: Builder, body: String) -> serde_json::Value {
        let socket = self.dial(instance, Target::Agent).await.unwrap();
        let request = request.header("host", "agent").body(Full::new(Bytes::from(body))).unwrap();
        let answer = call(socket, request, PATIENCE).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert!(answer.status().is_success(), "{body}");
        body
    }

    pub(crate) fn agent_log(&self, id: InstanceId) -> String {
        std::fs::read_to_string(self.instance_dir(id).join("agent.log")).unwrap_or_default()
    }

    async fn wait_for<T: serde::de::DeserializeOwned>(&self, prefix: &str, is: impl Fn(&T) -> bool) -> T {
        let mut watch = self.store.watch(prefix, None);
        let seen = async {
            loop {
                let values: Vec<Bytes> = match watch.next().await.unwrap() {
                    WatchEvent::Snapshot(listing) => listing.entries.into_iter().map(|entry| entry.value).collect(),
                    WatchEvent::Changes(changes) => changes.into_iter().filter_map(|change| change.value).collect(),
                    WatchEvent::Resync | WatchEvent::Back => Vec::new(),
                };
                let mut found = values.iter().map(|value| serde_json::from_slice::<T>(value).unwrap());
                if let Some(value) = found.find(|value| is(value)) {
                    return value;
                }
            }
        };
        timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("nothing under {prefix} came to be so"))
    }
}

impl Drop for TestCell {
    /// Agents outlive their nodes, but not the test.
    fn drop(&mut self) {
        let entries = std::fs::read_dir(self.data().join("instances")).into_iter().flatten();
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        ids.for_each(kill_all);
    }
}

impl TestNode {
    /// Ends the daemon without a word to anybody, and waits until it is gone.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.running.done).await.unwrap().unwrap();
    }

    pub(crate) const fn id(&self) -> NodeId {
        self.running.id
    }
}

impl ChildNode {
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

pub(crate) fn route(instance: &Instance) -> Route {
    let address = instance.address.clone().expect("a placed instance has an address");
    Route { instance: instance.id, generation: instance.generation, address }
}

/// Waits until something is so, looking often; for what no event tells.
pub(crate) async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Living processes of this host that carry the instance's mark.
pub(crate) fn processes_of(id: InstanceId) -> Vec<i32> {
    let mark = format!("LANDFAST_INSTANCE={id}");
    let carries = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|&byte| byte == 0).any(|line| line == mark.as_bytes()))
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(carries).collect()
}

pub(crate) fn kill_all(id: InstanceId) {
    for pid in processes_of(id) {
        // It may have ended since.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn pending(spec: InstanceSpec) -> Instance {
    Instance {
        id: random::instance_id(),
        kind: Kind::Sandbox,
        spec,
        desired: Desired::Running,
        phase: Phase::Pending,
        generation: Generation(0),
        node: None,
        host: None,
        address: None,
        moving: None,
        reason: None,
        labels: BTreeMap::new(),
        created_at: clock::unix_millis(),
        ended_at: None,
    }
}
