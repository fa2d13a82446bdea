//! The control plane's calls against a real API server. The test is the node where one is needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfast_client::{Client, CreateInstance, Error, Instance, MovedTo};
use landfast_core::record::{External, Generation, InstanceSpec, Kind, Phase, Service, keys};
use landfast_core::{ErrorCode, InstanceId, NodeId, lifecycle};
use landfast_net::random;
use landfast_net::role::{CancellationToken, Running};
use landfast_registry::api;
use landfast_registry::cell::Cell;
use landfast_registry::records;
use landfast_registry::store::{Expect, Store};
use tempfile::TempDir;
use tokio::time::{Duration, timeout};

/// Longer than anything here takes; a test that waits it out has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// An API server on a fresh cell, and a client of it.
struct Control {
    client: Client,
    cell: Arc<Cell>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
    running: Running,
    _dir: TempDir,
}

impl Control {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cell = Arc::new(Cell::open(&dir.path().join("data")).unwrap());
        let store = cell.store().unwrap();
        let stop = CancellationToken::new();
        let running = api::start(api::Config::default(), cell.clone(), store.clone(), stop.clone()).await.unwrap();
        let client = Client::new(&format!("http://{}", running.address), cell.api_key().to_text()).unwrap();
        Self { client, cell, store, stop, running, _dir: dir }
    }

    fn client_with(&self, key: &str) -> Client {
        Client::new(&format!("http://{}", self.running.address), key).unwrap()
    }

    async fn add_node(&self, name: &str) -> NodeId {
        let node = landfast_client::Node {
            id: random::node_id(),
            name: name.to_owned(),
            host: "h".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            capacity: 10,
            labels: BTreeMap::new(),
            draining: false,
            isolation: "none: a test".to_owned(),
            started_at: 0,
        };
        let lease = self.store.grant(Duration::from_secs(60)).await.unwrap();
        let record = records::encode(&node).unwrap();
        self.store.put(&keys::node(node.id), Expect::Absent, record, Some(&lease)).await.unwrap();
        node.id
    }

    async fn comes_to(&self, id: InstanceId, phase: Phase) -> landfast_core::record::Instance {
        let mut watch = self.store.watch(&keys::instance(id), None);
        let reached = async {
            loop {
                watch.next().await.unwrap();
                let (record, _) = records::instance(&*self.store, id).await.unwrap().unwrap();
                if record.phase == phase {
                    return record;
                }
            }
        };
        timeout(PATIENCE, reached).await.expect("it never came to that")
    }

    /// Writes what the node writes that brings an instance up.
    async fn bring_up(&self, id: InstanceId) {
        let placed = self.comes_to(id, Phase::Starting).await;
        let start = |record: &mut landfast_core::record::Instance| {
            Ok(lifecycle::started(record, placed.node.unwrap(), placed.generation)?)
        };
        records::update_instance(&*self.store, id, start).await.unwrap();
    }

    async fn create(&self, spec: InstanceSpec) -> Instance {
        let wish = CreateInstance { kind: Kind::Sandbox, spec, labels: BTreeMap::new() };
        self.client.create_instance(&wish, Duration::ZERO).await.unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn code<T: std::fmt::Debug>(answer: Result<T, Error>) -> Option<ErrorCode> {
    answer.unwrap_err().code()
}

#[tokio::test]
async fn an_instance_is_put_to_sleep_and_woken() {
    let control = Control::start().await;
    control.add_node("a").await;
    let id = control.create(InstanceSpec::default()).await.id;
    control.bring_up(id).await;
    let doze = async {
        let record = control.comes_to(id, Phase::Running).await;
        let (node, generation) = (record.node.unwrap(), record.generation);
        let mut watch = control.store.watch(&keys::instance(id), None);
        while !lifecycle::is_dozing(&records::instance(&*control.store, id).await.unwrap().unwrap().0) {
            watch.next().await.unwrap();
        }
        let asleep = |record: &mut landfast_core::record::Instance| Ok(lifecycle::asleep(record, node, generation)?);
        records::update_instance(&*control.store, id, asleep).await.unwrap();
    };
    let (asleep, ()) = tokio::join!(control.client.sleep_instance(id, PATIENCE), doze);
    assert_eq!(asleep.unwrap().phase, Phase::Sleeping);
    let (awake, ()) = tokio::join!(control.client.wake_instance(id, PATIENCE), control.bring_up(id));
    let awake = awake.unwrap();
    assert_eq!((awake.phase, awake.generation), (Phase::Running, Generation(2)));
}

#[tokio::test]
async fn an_external_instance_is_moved_as_its_platform_says() {
    let control = Control::start().await;
    let web = "web".parse().unwrap();
    let service = Service { address: Some("127.0.0.1:80".to_owned()), ..Service::default() };
    let spec = InstanceSpec {
        external: Some(External { agent: Some("127.0.0.1:9".to_owned()) }),
        services: [(web, service)].into(),
        ..InstanceSpec::default()
    };
    let id = control.create(spec).await.id;
    let client = &control.client;
    assert_eq!(code(client.abort_external_move(id).await), Some(ErrorCode::MoveRefused));
    assert_eq!(client.begin_external_move(id).await.unwrap().phase, Phase::Moving);
    assert_eq!(client.abort_external_move(id).await.unwrap().phase, Phase::Running);
    client.begin_external_move(id).await.unwrap();
    let to = MovedTo { agent: None, services: [(web, "127.0.0.2:80".to_owned())].into() };
    let moved = client.commit_external_move(id, &to).await.unwrap();
    assert_eq!((moved.phase, moved.generation), (Phase::Running, Generation(2)));
    assert_eq!(moved.spec.services[&web].address.as_deref(), Some("127.0.0.2:80"));
    assert_eq!(code(client.sleep_instance(id, Duration::ZERO).await), Some(ErrorCode::SleepRefused));
}

#[tokio::test]
async fn a_node_is_drained_by_its_name() {
    let control = Control::start().await;
    control.add_node("a b").await;
    let client = &control.client;
    client.drain_node("a b").await.unwrap();
    assert!(client.nodes().await.unwrap()[0].draining);
    client.undrain_node("a b").await.unwrap();
    assert!(!client.nodes().await.unwrap()[0].draining);
    assert_eq!(code(client.drain_node("c").await), Some(ErrorCode::NodeUnknown));
}

#[tokio::test]
async fn keys_are_made_used_listed_and_taken_back() {
    let control = Control::start().await;
    let client = &control.client;
    let made = client.create_api_key("ci").await.unwrap();
    assert!(!format!("{made:?}").contains(&made.key));
    let other = control.client_with(&made.key);
    let keys = other.api_keys().await.unwrap();
    let current: Vec<_> = keys.iter().map(|key| (key.name.as_str(), key.current)).collect();
    assert_eq!(current, [("data directory", false), ("ci", true)]);
    client.remove_api_key(made.id).await.unwrap();
    assert_eq!(code(other.api_keys().await), Some(ErrorCode::AuthInvalid));
    assert_eq!(code(client.remove_api_key(control.cell.api_key().id()).await), Some(ErrorCode::KeyLast));
}
