//! Puts a node together and takes it apart.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use landfast_core::record::Node;
use landfast_core::{ErrorCode, NodeId, Problem};
use landfast_net::clock;
use landfast_net::credential::Credential;
use landfast_net::reverse::NodeSecret;
use landfast_net::role::{CancellationToken, listen};
use landfast_registry::archive::Archive;
use landfast_registry::store::Store;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::archiver::Archiver;
use crate::config::{Config, check_length};
use crate::driver::{Driver, agent_command};
use crate::fence::Fence;
use crate::identity::Identity;
use crate::instance::Context;
use crate::isolation::Confinement;
use crate::lease::Keeping;
use crate::relay::{self, Records, Relay};
use crate::reverse::{self, Outward};

/// How long a node waits for its first lease before it says that it cannot start.
const FIRST_LEASE_DEADLINE: Duration = Duration::from_secs(15);

/// A node that works.
#[derive(Debug)]
pub struct Running {
    /// Its id.
    pub id: NodeId,
    /// Where its relay listens; nowhere, as 0.0.0.0:0, if it dials instead.
    pub address: SocketAddr,
    /// What it holds at this moment.
    pub counts: Counts,
    /// Ends when the node has stopped. Its instances go on.
    pub done: JoinHandle<()>,
}

/// What a node holds: each is back where it was when whatever raised it has ended.
#[derive(Clone, Debug)]
pub struct Counts {
    fence: Arc<Fence>,
    relay: Arc<Relay>,
    connections: usize,
}

impl Counts {
    /// Connections that the relay lets in now.
    pub fn carried(&self) -> usize {
        self.connections - self.relay.carried.available_permits()
    }

    /// Those of them that are through an instance's door, and not with its agent yet.
    pub fn inside(&self) -> usize {
        self.fence.inside()
    }

    /// Instances that the node has something to do with now.
    pub fn instances(&self) -> usize {
        self.fence.places()
    }
}

/// Starts a node: takes its name, its lease and its instances, and then listens.
///
/// When `stop` is cancelled the node cuts what it carries and ends. Its instances go on, and are adopted by the next
/// daemon with its name.
///
/// # Errors
///
/// [`ErrorCode::ConfigInvalid`], [`ErrorCode::ListenInUse`], or [`ErrorCode::RegistryUnavailable`].
pub async fn start(
    config: Config,
    credential: Credential,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> Result<Running, Problem> {
    config.check()?;
    // Whatever fails below ends what was begun above it, and nothing of the caller's.
    let stop = stop.child_token();
    let begun = stop.clone().drop_guard();
    let data = fs::canonicalize(&config.data).map_err(|error| {
        Problem::new(
            ErrorCode::ConfigInvalid,
            format!("The data directory {} is not there: {error}.", config.data.display()),
        )
    })?;
    let identity = Identity::take(&data, &config.name).await?;
    let driver = make_driver(&config, &data, &identity).await?;
    let archiver = Arc::new(Archiver::new(&data, Archive::open(&data, config.archive.as_deref())?));
    let (way, local, address) = way_in(&config, &credential, &identity)?;
    let record = describe(&config, &identity, &data, &address, &driver);
    let fence = Arc::new(Fence::new(identity.id, identity.tenure()?));
    let host = record.host.clone();
    let ctx = Arc::new(Context {
        me: identity.id,
        host,
        address,
        store: store.clone(),
        fence: fence.clone(),
        driver,
        claims: identity.claims(),
        archiver: archiver.clone(),
    });
    let (records, questions) = Records::channel();
    let (adopted, adoption) = oneshot::channel();
    let keeping = tokio::spawn(Keeping::new(ctx, record, questions).run(stop.clone(), adopted));
    let relay = Arc::new(Relay::new(identity.id, data, credential, fence.clone(), records, config.connections));
    // The channel's end is the word.
    if timeout(FIRST_LEASE_DEADLINE, adoption).await.is_err() {
        return Err(Problem::new(ErrorCode::RegistryUnavailable, "The node got no lease; the log says why."));
    }
    let workers = match way {
        Way::Dialled(listener) => relay::run(listener, &relay, &stop)?,
        Way::Dials(secret) => {
            let outward = Outward { relay: relay.clone(), secret, stop: stop.clone() };
            let mut tasks = JoinSet::new();
            tasks.spawn(reverse::run(Arc::new(outward), store));
            tasks
        }
    };
    begun.disarm();
    info!(id = %identity.id, address = %local, "the node serves");
    let connections = relay.carried.available_permits();
    let counts = Counts { fence, relay, connections };
    let id = identity.id;
    let archiving = stop.clone().run_until_cancelled_owned(async move { archiver.run().await });
    let done = tokio::spawn(async move {
        let _name = identity;
        let archiving = tokio::spawn(archiving);
        if let Err(error) = keeping.await {
            error!(%error, "the node ended badly");
            stop.cancel();
        }
        workers.join_all().await;
        drop(archiving.await);
    });
    Ok(Running { id, address: local, counts, done })
}

/// How gateways come to the relay.
enum Way {
    /// They dial it.
    Dialled(TcpListener),
    /// It dials them, and shows this.
    Dials(NodeSecret),
}

/// The way, where it listens if anywhere, and the address that gateways are told.
fn way_in(config: &Config, credential: &Credential, identity: &Identity) -> Result<(Way, SocketAddr, String), Problem> {
    if config.reverse {
        let secret = identity.reverse_secret()?;
        let address = landfast_net::reverse::address(&secret);
        return Ok((Way::Dials(secret), SocketAddr::from(([0, 0, 0, 0], 0)), address));
    }
    credential.check_listen(config.listen)?;
    let listener = listen_again(config, identity)?;
    let local = listener.local_addr().map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    if let Err(error) = identity.remember_port(local.port()) {
        warn!(%error, "the relay's port is not remembered; after a restart the node has a new address");
    }
    let address = config.advertise.clone().unwrap_or_else(|| local.to_string());
    Ok((Way::Dialled(listener), local, address))
}

async fn make_driver(config: &Config, data: &Path, identity: &Identity) -> Result<Driver, Problem> {
    let command = agent_command(&config.agent_command)?;
    let chosen = Confinement::choose(config.isolation, &identity.scratch(), data, config.processes).await;
    let confinement = chosen.map_err(|why| {
        Problem::new(ErrorCode::ConfigInvalid, format!("isolation is bubblewrap, which does not work here: {why}."))
    })?;
    match &confinement {
        Confinement::Bubblewrap(_) => info!("instances are isolated with bubblewrap"),
        Confinement::None(why) => {
            check_length(data)?;
            warn!(why, "instances are NOT isolated: they can read and change whatever this node's user can");
        }
    }
    Ok(Driver { data: data.to_owned(), confinement, command })
}

/// Where the node listened last, if the configuration leaves it open: then routes stay true over a restart.
fn listen_again(config: &Config, identity: &Identity) -> Result<TcpListener, Problem> {
    if config.listen.port() == 0
        && let Some(port) = identity.port
        && let Ok(listener) = listen(SocketAddr::new(config.listen.ip(), port), false)
    {
        return Ok(listener);
    }
    listen(config.listen, false)
}

fn describe(config: &Config, identity: &Identity, data: &Path, address: &str, driver: &Driver) -> Node {
    Node {
        id: identity.id,
        name: config.name.clone(),
        host: host(data),
        address: address.to_owned(),
        capacity: config.capacity,
        labels: config.labels.clone(),
        draining: config.draining,
        isolation: driver.confinement.label(),
        started_at: clock::unix_millis(),
    }
}

/// What two nodes have in common that can take over each other's agents: a machine and a data directory on it.
fn host(data: &Path) -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let machine = fs::read_to_string(PathBuf::from("/etc/machine-id")).unwrap_or_default();
    let machine: String = machine.trim().chars().take(8).collect();
    format!("{name}/{machine}{}", data.display())
}
