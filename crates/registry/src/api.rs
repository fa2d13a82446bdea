//! The public API: what people and programs ask of a cell.
//!
//! It writes what should be into the store and reads what is; nodes and the keeper do the rest. So any number of API
//! servers may run, and one may die in the middle of a request: what it had acknowledged stands, and a repeated request
//! finds it. Every refusal, down to the wrong method on a wrong path, is a row of the error table.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use landfast_core::Problem;
use landfast_core::record::{self, ApiServer};
use landfast_net::credential::Credential;
use landfast_net::role::{self, CancellationToken, Running};
use serde::Deserialize;
use tokio::task::JoinSet;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::archive::Archive;
use crate::cell::Cell;
use crate::keeper;
use crate::registration::Registration;
use crate::reverse::{self, Point};
use crate::store::Store;

mod access;
mod carry;
mod describe;
mod external;
mod forward;
mod health;
mod idempotency;
mod input;
mod instances;
mod kernel;
mod keys;
mod moves;
mod nodes;
mod refusal;
mod serve;
mod sleep;
mod spec;
mod telemetry;
#[cfg(test)]
mod tests;
mod tokens;
mod view;
mod wait;

pub(crate) use idempotency::Claim;

/// Settings of an API server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens. Gateways find it in the store, so any free port of this machine does.
    pub listen: SocketAddr,
    /// The `host:port` it tells gateways, where that is not what it listens on.
    pub advertise: Option<String>,
    /// Where events are kept: `s3://bucket/prefix`, with endpoint, region and credentials from the usual variables
    /// (`AWS_…`), or `file:///directory`; the nodes' must be the same. Default: `archive` in the data directory.
    pub archive: Option<String>,
    /// Where nodes with `reverse` bring their connections. Default: nowhere.
    pub relay_listen: Option<SocketAddr>,
    /// That address as nodes reach it (`host:port`). Default: `relay_listen`.
    pub relay_advertise: Option<String>,
    /// The URL under which clients reach the cell, such as `https://cell.example`; without it, what the request says.
    pub public_url: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise: None,
            archive: None,
            relay_listen: None,
            relay_advertise: None,
            public_url: None,
        }
    }
}

/// What handlers share.
struct Api {
    cell: Arc<Cell>,
    /// What nodes are reached with.
    credential: Credential,
    store: Arc<dyn Store>,
    archive: Archive,
    public_url: Option<String>,
    stop: CancellationToken,
}

/// Starts an API server and its keeper: makes the cell's keys known, listens, and tells the gateways where.
///
/// # Errors
///
/// The address is taken or not ours, or the store cannot be used.
pub async fn start(
    config: Config,
    cell: Arc<Cell>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> Result<Running, Problem> {
    let archive = Archive::open(&cell.dir, config.archive.as_deref())?;
    cell.credential().check_listen(config.listen)?;
    let listener = role::listen(config.listen, false)?;
    let address = listener.local_addr().map_err(|_| landfast_core::ErrorCode::Internal)?;
    cell.signer().publish(&*store).await?;
    cell.api_key().publish(&*store).await?;
    let advertised = config.advertise.unwrap_or_else(|| address.to_string());
    let server = ApiServer { address: advertised };
    let registration = Registration::write(&*store, record::keys::APIS, server).await?;
    let mut tasks = JoinSet::new();
    let mut credential = cell.credential().clone();
    if let Some(listen) = config.relay_listen {
        let point = Point { listen, advertise: config.relay_advertise };
        let (reaching, task) = reverse::open(point, credential, store.clone(), stop.clone())?;
        credential = reaching;
        tasks.spawn(async move { drop(task.await) });
    }

    let public_url = config.public_url.map(|url| url.trim_end_matches('/').to_owned());
    let api = Api {
        cell,
        credential: credential.clone(),
        store: store.clone(),
        archive: archive.clone(),
        public_url,
        stop: stop.clone(),
    };
    let api = Arc::new(api);
    tasks.spawn(serve::serve(listener, credential, router(api.clone()), stop.clone()));
    tasks.spawn(registration.keep(store.clone(), stop.clone()));
    tasks.spawn(keeper::run(store, stop.clone()));
    tasks.spawn(telemetry::sweep(archive, stop.clone()));
    tasks.spawn(kernel::tend(api));
    let done = tokio::spawn(wait_for(tasks, stop));
    Ok(Running { address, done })
}

/// Waits for the server's tasks. None of them ends before the stop, and without one of them the others are no server: then
/// all end, so that whoever started the server learns of it.
async fn wait_for(mut tasks: JoinSet<()>, stop: CancellationToken) {
    while let Some(ended) = tasks.join_next().await {
        if !stop.is_cancelled() {
            tracing::error!(?ended, "a task of the API server ended by itself; the server ends");
            return;
        }
    }
}

/// The description of the API, as `docs/reference/openapi.json` has it.
pub fn openapi() -> String {
    let mut text = described().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

fn described() -> OpenApi {
    let (_, mut paths) = open().split_for_parts();
    let (_, with_key) = protected().split_for_parts();
    paths.merge(with_key);
    describe::finish(paths)
}

fn router(api: Arc<Api>) -> Router {
    let (protected, _) = protected().split_for_parts();
    let protected = protected.route_layer(from_fn_with_state(api.clone(), access::require_key));
    let (open, _) = open().split_for_parts();
    open.merge(protected)
        .merge(kernel::router(&api))
        .fallback(refusal::unknown_path)
        .method_not_allowed_fallback(refusal::wrong_method)
        .layer(from_fn(refusal::guard))
        .with_state(api)
}

fn open() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::description))
}

fn protected() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(instances::create, instances::list))
        .routes(routes!(instances::read, instances::delete))
        .routes(routes!(instances::stop))
        .routes(routes!(sleep::sleep))
        .routes(routes!(sleep::wake))
        .routes(routes!(moves::begin))
        .routes(routes!(external::begin))
        .routes(routes!(external::commit))
        .routes(routes!(external::abort))
        .routes(routes!(tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::drain, nodes::undrain))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::remove))
        .routes(routes!(forward::processes))
        .routes(routes!(forward::process))
        .routes(routes!(forward::exec))
        .routes(routes!(forward::browser))
        .routes(routes!(forward::browser_verb))
        .routes(routes!(carry::json_list))
        .routes(routes!(carry::json))
        .routes(routes!(carry::services))
        .routes(routes!(carry::service))
        .routes(routes!(carry::files))
        .routes(routes!(telemetry::config))
        .routes(routes!(telemetry::stream))
        .routes(routes!(telemetry::read, telemetry::say))
}
