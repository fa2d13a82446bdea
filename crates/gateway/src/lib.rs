//! Where clients connect.
//!
//! A gateway must be replaceable at any moment: it holds no truth, only what it can learn again from the registry, and
//! the sockets of its clients. Requests go to the control plane or, let in by their token, to an instance wherever it is
//! now; WebSockets become sessions, which outlive the connections that carry them.
//!
//! ```text
//! serve ─ dispatch ─┬─ netcheck                  /v1/netcheck: how its own legs are
//!                   ├─ api                       /v1: to an API server
//!                   └─ auth ─┬─ forward ─ search    a request: find, park, try again      ┐
//!                            ├─ hold ─ tap ─ first  a WebSocket: a session of ours         ├─ routes
//!                            └─ links ─ first       a link of a client that is its own end ┘
//! ```

mod access;
mod answer;
mod api;
mod attempts;
mod auth;
mod carrier;
mod client;
mod config;
mod cors;
mod counted;
mod counters;
mod direct;
mod dispatch;
mod exchange;
mod first;
mod forward;
mod gateway;
mod h1;
mod h2;
mod headers;
mod hold;
mod kernel;
mod limits;
mod links;
mod metrics;
mod netcheck;
mod pipe;
mod place;
mod routes;
mod search;
mod serve;
mod stop;
mod tap;
mod trace;
mod upstream;
mod wake;
mod watch;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfast_core::record::keys;
use landfast_core::{ErrorCode, Problem};
use landfast_net::role::listen;
use landfast_net::tls::Tls;
use landfast_registry::cell::Cell;
use landfast_registry::reverse::{self, Point};
use landfast_registry::store::Store;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::api::Apis;
use crate::auth::Auth;
pub use crate::config::{Config, TrafficLimits};
use crate::counters::Counters;
use crate::gateway::Gateway;
use crate::netcheck::Registry;
use crate::routes::Routes;
use crate::stop::Drain;
pub use crate::stop::Stop;
use crate::trace::Traces;
use crate::wake::Waker;
use crate::watch::Feed;

/// How long a start waits for the registry's first word; a gateway without one starts all the same, and is not ready.
const LOAD_WITHIN: Duration = Duration::from_secs(5);

/// What one worker listens on.
type Listeners = Vec<(std::net::TcpListener, Option<Tls>)>;

/// A gateway that serves.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where its metrics are read, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Ends when it has stopped.
    pub done: JoinHandle<()>,
}

/// Starts a gateway. It has stopped when [`Running::done`] ends, which a first stop signal brings about within the
/// configured drain timeout and a second one at once.
///
/// # Errors
///
/// [`ErrorCode::ConfigInvalid`] or [`ErrorCode::ListenInUse`], for the operator.
pub async fn start(
    config: Config,
    cell: &Cell,
    store: Arc<dyn Store>,
    stop: impl Into<Stop>,
) -> Result<Running, Problem> {
    config.check()?;
    let mut listeners: Vec<_> =
        listeners(config.listen, config.worker_count())?.into_iter().map(|listener| vec![(listener, None)]).collect();
    let address = listeners[0][0].0.local_addr().map_err(|error| no_listener(&error))?;
    let tls = add_tls(&config, &mut listeners)?;
    let (routes, routes_owner) = Routes::new(Arc::clone(&store));
    let (waker, wakes) = Waker::new(Arc::clone(&store));
    let page = config.metrics_listen.map(|address| listen(address, false)).transpose()?;
    let one_in = config.trace_one_in;
    let traces = config.otlp_endpoint.as_deref().map(|endpoint| Traces::to(endpoint, one_in)).transpose()?;
    let (auth, apis, drain) = (Auth::default(), Apis::default(), Drain::default());
    let mut credential = cell.credential().clone();
    let mut reversed = None;
    if let Some(listen) = config.relay_listen {
        let point = Point { listen, advertise: config.relay_advertise.clone() };
        let (reaching, task) = reverse::open(point, credential, Arc::clone(&store), drain.over.clone())?;
        (credential, reversed) = (reaching, Some(task));
    }
    let gateway = Arc::new(Gateway {
        config,
        credential,
        registry: Registry(Arc::clone(&store)),
        routes,
        auth,
        apis,
        drain,
        waker,
        counters: Counters::default(),
        traces,
        workers: Mutex::default(),
    });
    let metrics = page.as_ref().and_then(|listener| listener.local_addr().ok());
    let page =
        page.map(|listener| AbortOnDropHandle::new(tokio::spawn(metrics::serve(listener, Arc::clone(&gateway)))));
    let followers = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move {
            let _page = page;
            let renewed = async {
                if let Some(tls) = tls {
                    match tls.keep_fresh().await {}
                }
            };
            tokio::join!(routes_owner, wakes, renewed, follow(&gateway, &*store));
        }
    });
    // What comes before the first word waits in the kernel's queue instead of being refused.
    let loaded = async { tokio::join!(gateway.routes.loaded(), gateway.auth.loaded(), gateway.apis.loaded()) };
    let _ = timeout(LOAD_WITHIN, loaded).await;
    let workers = spawn_workers(listeners, &gateway).inspect_err(|_| {
        followers.abort();
        gateway.drain.end();
    })?;
    tracing::info!(%address, workers = workers.len(), "the gateway listens");
    if let Some(address) = metrics {
        tracing::info!(url = %format_args!("http://{address}/metrics"), "metrics are served");
    }
    let done = tokio::spawn(stopped(gateway, workers, followers, reversed, stop.into()));
    Ok(Running { address, metrics, done })
}

/// Conducts the stop, and ends when the last worker has.
async fn stopped(
    gateway: Arc<Gateway>,
    workers: Vec<oneshot::Receiver<()>>,
    followers: JoinHandle<()>,
    reversed: Option<JoinHandle<()>>,
    stop: Stop,
) {
    let ended = async {
        for worker in workers {
            // A worker that panicked has ended too.
            let _ = worker.await;
        }
    };
    let conducted = async {
        gateway.drain.conduct(stop, gateway.config.drain_timeout()).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ended => {}
        () = conducted => {}
    }
    gateway.drain.end();
    if let Some(reversed) = reversed {
        // Its record is taken back, if the registry answers.
        let _ = timeout(LOAD_WITHIN, reversed).await;
    }
    followers.abort();
    if let Some(traces) = &gateway.traces {
        traces.flush().await;
    }
    tracing::info!("the gateway has stopped");
}

/// One listener for each worker, all on one port.
fn listeners(address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, Problem> {
    // Another gateway of the same user would share the port without a word.
    let alone = listen(address, false)?;
    drop(alone);
    let first = listen(address, true)?;
    let address = first.local_addr().map_err(|error| no_listener(&error))?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(listen(address, true)?);
    }
    listeners.into_iter().map(|listener| TcpListener::into_std(listener).map_err(|error| no_listener(&error))).collect()
}

/// Lets every worker listen for TLS too, if the operator wants it.
fn add_tls(config: &Config, listeners: &mut [Listeners]) -> Result<Option<Tls>, Problem> {
    let (Some(address), Some(certificates), Some(key)) = (config.tls_listen, &config.tls_certificates, &config.tls_key)
    else {
        return Ok(None);
    };
    let tls = Tls::load(certificates, key)?;
    let more = self::listeners(address, listeners.len())?;
    if let Ok(address) = more[0].local_addr() {
        tracing::info!(%address, "the gateway listens with TLS");
    }
    listeners.iter_mut().zip(more).for_each(|(worker, listener)| worker.push((listener, Some(tls.clone()))));
    Ok(Some(tls))
}

fn spawn_workers(listeners: Vec<Listeners>, gateway: &Arc<Gateway>) -> Result<Vec<oneshot::Receiver<()>>, Problem> {
    let connections = Arc::new(Semaphore::new(gateway.config.connections.min(Semaphore::MAX_PERMITS)));
    let spawn = |(number, listeners)| {
        serve::spawn_worker(number, listeners, Arc::clone(gateway), Arc::clone(&connections)).map_err(|error| {
            Problem::new(ErrorCode::ConfigInvalid, format!("A worker's thread cannot be started: {error}."))
        })
    };
    listeners.into_iter().enumerate().map(spawn).collect()
}

fn no_listener(error: &std::io::Error) -> Problem {
    Problem::new(ErrorCode::ConfigInvalid, format!("Cannot listen: {error}."))
}

/// Follows what the registry says beside where instances are.
async fn follow(gateway: &Gateway, store: &dyn Store) {
    let mut token_keys = Feed::new(store, keys::TOKEN_KEYS);
    let mut revoked = Feed::new(store, keys::REVOKED);
    let mut apis = Feed::new(store, keys::APIS);
    loop {
        tokio::select! {
            event = token_keys.next() => gateway.auth.handle_keys(&event),
            event = revoked.next() => gateway.auth.handle_revoked(&event),
            event = apis.next() => gateway.apis.handle(&event),
        }
    }
}
