//! A gateway over a real store, and what a test says to both.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use landfast_core::record::{Desired, Generation, Instance, InstanceSpec, Kind, Phase, RevokedToken, keys};
use landfast_core::{InstanceId, NodeId, TokenId};
use landfast_gateway::{Config, Stop, start};
use landfast_net::clock::unix_millis;
use landfast_net::random;
use landfast_net::role::CancellationToken;
use landfast_registry::cell::Cell;
use landfast_registry::records;
use landfast_registry::store::{Expect, Store};
use landfast_registry::token::{Claims, Scope};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::node::Node;

/// How long a test waits for what must happen: far longer than it takes, on a machine that does ten other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with its cell.
pub struct World {
    pub cell: Cell,
    pub store: Arc<dyn Store>,
    pub gateway: SocketAddr,
    pub metrics: Option<SocketAddr>,
    pub stop: Stop,
    done: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl World {
    /// A gateway with short deadlines where they are waited out.
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// A gateway with a changed configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(|store| store, change).await
    }

    /// A gateway that sees the store through `veil`.
    pub async fn over(veil: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cell = Cell::open(&dir.path().join("data")).unwrap();
        let store = cell.store().unwrap();
        cell.signer().publish(&*store).await.unwrap();
        let mut config = Config { data: cell.dir.clone(), workers: 2, ..Config::default() };
        config.listen.set_port(0);
        change(&mut config);
        let stop = Stop::from(CancellationToken::new());
        let running = start(config, &cell, veil(Arc::clone(&store)), stop.clone()).await.unwrap();
        Self {
            cell,
            store,
            gateway: running.address,
            metrics: running.metrics,
            stop,
            done: Some(running.done),
            _dir: dir,
        }
    }

    /// A record of an instance that runs at `node`, in its first generation.
    pub async fn instance_at(&self, node: &Node) -> InstanceId {
        let record = record(random::instance_id(), node);
        records::create_instance(&*self.store, &record).await.unwrap();
        record.id
    }

    /// Changes an instance's record.
    pub async fn change(&self, id: InstanceId, change: impl Fn(&mut Instance)) {
        let changed = records::update_instance(&*self.store, id, |instance| {
            change(instance);
            Ok(())
        });
        changed.await.unwrap();
    }

    /// Gives an instance another phase.
    pub async fn phase(&self, id: InstanceId, phase: Phase) {
        self.change(id, |instance| instance.phase = phase).await;
    }

    /// Gives an instance to another node, in its next generation.
    pub async fn moved(&self, id: InstanceId, node: &Node) {
        self.change(id, |instance| {
            instance.phase = Phase::Running;
            instance.generation = instance.generation.next();
            instance.address = Some(node.address.clone());
        })
        .await;
    }

    /// A token that allows everything in an instance for an hour.
    pub fn token(&self, id: InstanceId) -> String {
        self.token_of(id, &[Scope::All], 3600).1
    }

    /// A token with its id, for some scopes and some seconds.
    pub fn token_of(&self, id: InstanceId, scopes: &[Scope], seconds: i64) -> (TokenId, String) {
        let (jti, now) = (random::token_id(), unix_millis() / 1000);
        let exp = now.saturating_add_signed(seconds);
        let claims = Claims { jti, ins: id, scopes: scopes.to_vec(), exp, iat: now };
        (jti, self.cell.signer().sign(&claims))
    }

    /// Takes a token back.
    pub async fn revoke(&self, token: TokenId) {
        let record = RevokedToken { expires_at: unix_millis() / 1000 + 3600 };
        let value = records::encode(&record).unwrap();
        self.store.put(&keys::revoked(token), Expect::Absent, value, None).await.unwrap();
    }

    /// Writes any record.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) {
        self.store.put(key, Expect::Absent, value.into(), None).await.unwrap();
    }

    /// Tells the gateway to finish, and waits until it has stopped.
    pub async fn stopped(&mut self) {
        self.stop.drain.cancel();
        timeout(PATIENCE, self.done.take().expect("not stopped before")).await.expect("it stops").unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.drain.cancel();
        self.stop.now.cancel();
    }
}

/// The record of an instance that runs at `node`.
pub fn record(id: InstanceId, node: &Node) -> Instance {
    Instance {
        id,
        kind: Kind::Sandbox,
        spec: InstanceSpec::default(),
        desired: Desired::Running,
        phase: Phase::Running,
        generation: Generation(1),
        node: Some(NodeId::new(1, 1)),
        host: Some("here".into()),
        address: Some(node.address.clone()),
        moving: None,
        reason: None,
        labels: BTreeMap::new(),
        created_at: unix_millis(),
        ended_at: None,
    }
}

/// Waits for something that must happen.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Looks again and again until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
