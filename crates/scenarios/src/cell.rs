//! A whole cell as a user has it: API, gateway and nodes as processes of the program that is in the tree, with a network
//! between client and gateway, and between gateway and node, that fails on command.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfast_registry::authority;
use landfast_rig::{Cluster, Pace};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::fault_relay::FaultRelay;
use crate::ground::Ground;
use crate::http::{self, Answer};
use crate::instance::Instance;
use crate::plain::PATIENCE;
use crate::role::{Role, Settings};

/// The variable that says how instances are kept apart in a run of the scenarios: `none` shows that all of it holds without
/// isolation too.
const ISOLATION: &str = "LANDFAST_TEST_ISOLATION";

/// The variable that makes every cell speak TLS between its parts, to show that all of it holds then too.
const TLS: &str = "LANDFAST_TEST_TLS";

/// What hosts of one cell share, if their store is a file: on real ones it is a server.
const SHARED: [&str; 4] = ["cell.db", "cell.db.bell", "cell.key", "token-key.pem"];

/// Lines of an agent's log that a failed test shows.
const AGENT_LINES: usize = 20;

/// A cell. Everything it started ends with the value.
#[derive(Debug)]
pub struct Cell {
    /// The API.
    pub api: Role,
    /// The gateway.
    pub gateway: Role,
    /// The nodes, in the order they were added: `a` first.
    pub nodes: Vec<Node>,
    /// The network between clients and the gateway.
    pub downstream: FaultRelay,
    /// The way in for an operator.
    pub operator: Operator,
    /// Where its records are, if not in the data directory.
    pub etcd: Option<Cluster>,
    bare: bool,
    ground: Ground,
    /// The data directories of other hosts.
    elsewhere: Vec<Ground>,
}

/// Who may ask the control plane.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Where clients connect: the network before the gateway.
    pub address: SocketAddr,
    /// The API key.
    pub key: String,
    /// The data directory.
    pub dir: PathBuf,
}

/// A node, and the network between the gateway and it.
#[derive(Debug)]
pub struct Node {
    /// Its process.
    pub role: Role,
    /// Its name.
    pub name: &'static str,
    /// The network before it.
    pub network: FaultRelay,
}

/// An access token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its id, by which it is taken back.
    pub id: String,
    /// What is sent.
    pub text: String,
}

/// A cell to be: what to change before it starts.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    api: Settings,
    gateway: Settings,
    node: Settings,
    bare: bool,
    encrypted: bool,
    members: usize,
}

impl Plan {
    /// Sets a setting of the gateway.
    #[must_use]
    pub fn gateway(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.gateway.insert(key, value.into());
        self
    }

    /// Sets a setting of every node.
    #[must_use]
    pub fn node(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.node.insert(key, value.into());
        self
    }

    /// Lets its nodes listen nowhere: they dial the gateway and the API server instead.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.api.insert("relay_listen", "127.0.0.1:0".to_owned());
        self.gateway("relay_listen", "127.0.0.1:0").node("reverse", "true")
    }

    /// Leaves the failing networks out, so that nothing but Landfast itself stands between its parts: for measuring.
    #[must_use]
    pub const fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Lets the parts know each other by certificates, as on several machines.
    #[must_use]
    pub const fn encrypted(mut self) -> Self {
        self.encrypted = true;
        self
    }

    /// Keeps the cell's records in etcd, with so many members.
    #[must_use]
    pub const fn over_etcd(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Starts a cell with one node, `a`.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start(self) -> Cell {
        let ground = Ground::new();
        let dir = ground.path();
        if self.encrypted || std::env::var_os(TLS).is_some() {
            certify(dir);
        }
        let etcd = (self.members > 0).then(|| Cluster::start(self.members, dir, Pace::INSTALLED));
        let api = Role::start("api", "0", dir, listening(stored(etcd.as_ref(), self.api))).await;
        let gateway = Role::start("gateway", "0", dir, listening(stored(etcd.as_ref(), self.gateway))).await;
        let downstream = FaultRelay::start().await.expect("a free port");
        downstream.lead_to(gateway.address());
        let key = std::fs::read_to_string(dir.join("api-key")).expect("the API writes its first key");
        let operator = Operator {
            address: if self.bare { gateway.address() } else { downstream.address() },
            key: key.trim().to_owned(),
            dir: dir.to_owned(),
        };
        let mut cell = Cell {
            api,
            gateway,
            nodes: Vec::new(),
            downstream,
            operator,
            etcd,
            bare: self.bare,
            ground,
            elsewhere: Vec::new(),
        };
        cell.add_node("a", self.node).await;
        cell
    }
}

/// Gives the roles of a data directory a certificate of an authority of their own.
fn certify(dir: &Path) {
    let ca = dir.join("ca");
    authority::init(&ca).expect("a fresh directory");
    authority::issue(&ca, &authority::Role::ALL, Duration::from_secs(3600), &dir.join("tls"))
        .expect("it was just made");
}

impl Cell {
    /// A cell with one node, `a`, and default settings.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start() -> Self {
        Plan::default().start().await
    }

    /// A cell whose gateway keeps one pool of connections, and not one for each processor: what it holds for reuse is then
    /// the same before and after, whichever thread served.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn for_counting() -> Self {
        Plan::default().gateway("workers", "1").start().await
    }

    /// A cell with two nodes, `a` and `b`.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn with_two_nodes() -> Self {
        let mut cell = Self::start().await;
        cell.add_node("b", Settings::new()).await;
        cell
    }

    /// Starts another node.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn add_node(&mut self, name: &'static str, settings: Settings) {
        self.add_node_at(name, self.dir().to_owned(), settings).await;
    }

    async fn add_node_at(&mut self, name: &'static str, dir: PathBuf, settings: Settings) {
        let network = FaultRelay::start().await.expect("a free port");
        let mut settings = listening(stored(self.etcd.as_ref(), settings));
        settings.insert("name", name.to_owned());
        if let Ok(isolation) = std::env::var(ISOLATION) {
            settings.entry("isolation").or_insert(isolation);
        }
        if !self.bare {
            settings.insert("advertise", network.address().to_string());
        }
        let role = Role::start("node", name, &dir, settings).await;
        network.lead_to(role.address());
        self.nodes.push(Node { role, name, network });
    }

    /// Starts another node with instances of its own, as on another host: it has the cell's store and secrets, and the same
    /// archive of events.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn add_host(&mut self, name: &'static str) {
        let ground = Ground::new();
        for shared in SHARED {
            symlink(self.dir().join(shared), ground.path().join(shared)).expect("a fresh directory");
        }
        let mut settings = Settings::new();
        settings.insert("archive", format!("file://{}", self.dir().join("archive").display()));
        self.add_node_at(name, ground.path().to_owned(), settings).await;
        self.elsewhere.push(ground);
    }

    /// Starts another gateway of the cell, with nothing between its clients and it.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn another_gateway(&self, name: &str, settings: Settings) -> Role {
        Role::start("gateway", name, self.ground.path(), listening(stored(self.etcd.as_ref(), settings))).await
    }

    /// The node of this name.
    ///
    /// # Panics
    ///
    /// There is none.
    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("a node of this name")
    }

    /// The node of this name, to look at.
    ///
    /// # Panics
    ///
    /// There is none.
    pub fn node_ref(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node of this name")
    }

    /// The node an instance is at, and the other one.
    ///
    /// # Panics
    ///
    /// There are not two nodes.
    pub async fn place_of(&self, instance: &Instance) -> (&'static str, &'static str) {
        let here = self.node_of(instance).await.name;
        let there = self.nodes.iter().find(|node| node.name != here).expect("two nodes");
        (here, there.name)
    }

    /// The node an instance is at.
    ///
    /// # Panics
    ///
    /// It is at none of ours.
    pub async fn node_of(&self, instance: &Instance) -> &Node {
        let id = instance.record().await["node"].clone();
        let nodes = self.operator.demand("GET", "/v1/nodes", None).await;
        let found = nodes["items"].as_array().and_then(|nodes| nodes.iter().find(|node| node["id"] == id));
        let name = found.unwrap_or_else(|| panic!("no node {id} in {nodes}"))["name"].clone();
        self.nodes.iter().find(|node| name == node.name).expect("a node of ours")
    }

    /// The nodes that an instance comes by in so many moves to and fro.
    pub async fn route_of(&self, instance: &Instance, moves: usize) -> Vec<&'static str> {
        let (here, there) = self.place_of(instance).await;
        [there, here].into_iter().cycle().take(moves).collect()
    }

    /// Kills the gateway and starts it again: it knows every route, and has a connection to nobody.
    pub async fn gateway_starts_afresh(&mut self) {
        self.gateway.restart().await;
        self.downstream.lead_to(self.gateway.address());
    }

    /// Cuts every link there is.
    pub fn cut_links(&self) {
        for node in &self.nodes {
            node.network.cut();
        }
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.ground.path()
    }

    /// Creates an instance on node `a` and waits until it runs.
    pub async fn create(&self) -> Instance {
        self.create_with(&json!({})).await
    }

    /// Creates an instance from a request and waits until it runs.
    ///
    /// # Panics
    ///
    /// It does not come up.
    pub async fn create_with(&self, wish: &Value) -> Instance {
        let created = self.operator.demand("POST", "/v1/instances?wait=60", Some(wish)).await;
        assert_eq!(created["phase"], "running", "{created}");
        self.instance(&created)
    }

    /// Creates an instance from a request.
    ///
    /// # Panics
    ///
    /// It is refused.
    pub async fn create_unawaited(&self, wish: &Value) -> Instance {
        self.instance(&self.operator.demand("POST", "/v1/instances", Some(wish)).await)
    }

    fn instance(&self, record: &Value) -> Instance {
        let field = |name: &str| record[name].as_str().expect("a live instance has an id and a token").to_owned();
        Instance { operator: self.operator.clone(), id: field("id"), token: field("token") }
    }
}

impl Operator {
    /// Asks the control plane, with the API key.
    pub async fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> Answer {
        http::ask(self.address, method, target, Some(&self.key), body).await
    }

    /// Asks the control plane and wants success.
    ///
    /// # Panics
    ///
    /// It refuses.
    pub async fn demand(&self, method: &str, target: &str, body: Option<&Value>) -> Value {
        let answer = self.ask(method, target, body).await;
        assert!((200..300).contains(&answer.status), "{method} {target}: {answer:?}");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// An access token for an instance.
    ///
    /// # Panics
    ///
    /// None is given.
    pub async fn token(&self, instance: &str, wish: &Value) -> Token {
        let answer = self.demand("POST", &format!("/v1/instances/{instance}/tokens"), Some(wish)).await;
        let field = |name: &str| answer[name].as_str().expect("a token has an id and a text").to_owned();
        Token { id: field("id"), text: field("token") }
    }

    /// Takes a token back.
    ///
    /// # Panics
    ///
    /// It is refused.
    pub async fn revokes(&self, token: &Token) {
        self.demand("DELETE", &format!("/v1/tokens/{}", token.id), None).await;
    }
}

impl Node {
    /// Kills the node and starts it again. Its agents live on.
    pub async fn restart(&mut self) {
        self.role.kill().await;
        self.start_again().await;
    }

    /// Starts the node again, wherever it listens then.
    pub async fn start_again(&mut self) {
        self.role.start_again().await;
        self.network.lead_to(self.role.address());
    }
}

/// What instances' agents said is gone with the directory, so a test that fails says it first.
impl Drop for Cell {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for instance in std::fs::read_dir(self.dir().join("instances")).into_iter().flatten().flatten() {
            let log = instance.path().join("agent.log");
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(AGENT_LINES).collect();
            eprintln!("--- the end of {}", log.display());
            last.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Looks again and again until `look` finds something.
///
/// # Panics
///
/// It found nothing for too long.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn stored(etcd: Option<&Cluster>, mut settings: Settings) -> Settings {
    settings.extend(etcd.map(|etcd| ("store", etcd.address())));
    settings
}

fn listening(mut settings: Settings) -> Settings {
    settings.entry("listen").or_insert_with(|| "127.0.0.1:0".to_owned());
    settings
}
