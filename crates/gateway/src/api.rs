//! The control plane's requests: handed to an API server, whatever they are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use landfast_core::record::ApiServer;
use landfast_core::{ErrorCode, Problem};
use landfast_net::socket::Socket;
use landfast_registry::records;
use landfast_registry::store::{Listing, WatchEvent};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::access::Record;
use crate::body::{Body, Upload};
use crate::forward::{self, Origin};
use crate::gateway::Worker;
use crate::upstream::{Connection, Key, SendError};

/// How long an API server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// The API servers that live, as far as the registry has told.
#[derive(Debug, Default)]
pub(crate) struct Apis {
    /// Addresses by the key of their record.
    servers: ArcSwap<BTreeMap<String, String>>,
    turn: AtomicUsize,
}

impl Apis {
    /// Follows a watch of [`landfast_core::record::keys::APIS`].
    pub(crate) fn handle(&self, event: &WatchEvent) {
        let mut servers = BTreeMap::clone(&self.servers.load());
        match event {
            WatchEvent::Snapshot(Listing { entries, .. }) => {
                servers.clear();
                entries.iter().for_each(|entry| set(&mut servers, &entry.key, Some(&entry.value)));
            }
            WatchEvent::Changes(changes) => {
                changes.iter().for_each(|change| set(&mut servers, &change.key, change.value.as_deref()));
            }
            WatchEvent::Resync => {}
        }
        self.servers.store(servers.into());
    }

    /// The addresses in the order in which to try them: each request begins with the next.
    fn in_turn(&self) -> Vec<String> {
        let mut addresses: Vec<_> = self.servers.load().values().cloned().collect();
        if !addresses.is_empty() {
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(first);
        }
        addresses
    }
}

/// Forwards a request to an API server. Credentials stay in it: they are for the API.
///
/// # Errors
///
/// `registry.unavailable` if there is none, `upstream.lost` if it was lost after the request was sent.
pub(crate) async fn forward(
    worker: &Worker,
    request: Request<Incoming>,
    origin: &Origin,
    record: &mut Record,
) -> Result<Response<Body>, Problem> {
    let (mut parts, body) = request.into_parts();
    origin.mark(&mut parts.headers);
    parts.uri = forward::origin_form(&parts.uri);
    let mut request = Request::from_parts(parts, Upload::new(body, record.up.clone()));
    for address in worker.gateway.apis.in_turn() {
        let key = Key::Api(address.clone());
        loop {
            let connection = match worker.pool.take(&key) {
                Some(connection) => connection,
                None => match connect(worker, key.clone(), &address).await {
                    Some(connection) => connection,
                    None => break,
                },
            };
            record.attempts += 1;
            let is_kept = connection.is_kept();
            match connection.send(request).await {
                Ok(response) => return Ok(forward::passed_on(response)),
                Err(SendError::NotSent(unsent)) => request = *unsent,
                Err(SendError::Lost(error)) => {
                    tracing::debug!(%error, "an API server was lost");
                    let detail = "The API server was lost before it answered; the request may have run.";
                    return Err(Problem::new(ErrorCode::UpstreamLost, detail));
                }
            }
            if !is_kept {
                break;
            }
        }
    }
    Err(ErrorCode::RegistryUnavailable.into())
}

async fn connect(worker: &Worker, key: Key, address: &str) -> Option<Connection> {
    let stream = match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(address, %error, "an API server cannot be reached");
            return None;
        }
        Err(_) => return None,
    };
    worker.pool.open(key, Socket::tcp(stream)).await.ok()
}

fn set(servers: &mut BTreeMap<String, String>, key: &str, value: Option<&[u8]>) {
    match value.map(|value| records::decode::<ApiServer>(key, value)) {
        Some(Ok(server)) => drop(servers.insert(key.to_owned(), server.address)),
        Some(Err(error)) => tracing::error!(%error, "an API server's record cannot be understood and is left out"),
        None => drop(servers.remove(key)),
    }
}
