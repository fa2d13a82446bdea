//! The control plane's requests: handed to an API server, whatever they are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use landfast_core::record::ApiServer;
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::RequestHead;
use landfast_net::relay::Target;
use landfast_registry::records;
use landfast_registry::store::{Listing, WatchEvent};
use tokio::sync::SetOnce;

use crate::access::Record;
use crate::client::{Client, Request};
use crate::exchange::{Exchange, Failed, Upload, unless_gone};
use crate::forward::{Forwarded, Unanswered, pass_on};
use crate::gateway::Worker;
use crate::upstream::{Key, Upstream};

/// The API servers that live, as far as the registry has told.
#[derive(Debug, Default)]
pub(crate) struct Apis {
    /// Addresses by the key of their record.
    servers: ArcSwap<BTreeMap<String, String>>,
    turn: AtomicUsize,
    /// The registry's first listing has arrived.
    loaded: SetOnce<()>,
}

impl Apis {
    /// Follows a watch of [`landfast_core::record::keys::APIS`].
    pub(crate) fn handle(&self, event: &WatchEvent) {
        let mut servers = BTreeMap::clone(&self.servers.load());
        match event {
            WatchEvent::Snapshot(Listing { entries, .. }) => {
                servers.clear();
                entries.iter().for_each(|entry| set(&mut servers, &entry.key, Some(&entry.value)));
                self.servers.store(servers.into());
                // Set already by all listings but the first.
                let _ = self.loaded.set(());
            }
            WatchEvent::Changes(changes) => {
                changes.iter().for_each(|change| set(&mut servers, &change.key, change.value.as_deref()));
                self.servers.store(servers.into());
            }
            WatchEvent::Resync | WatchEvent::Back => {}
        }
    }

    /// Whether the registry's API servers have been read once.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.initialized()
    }

    /// Waits until they have.
    pub(crate) async fn loaded(&self) {
        self.loaded.wait().await;
    }

    /// The addresses in the order in which to try them: each request begins with the next.
    pub(crate) fn in_turn(&self) -> Vec<String> {
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
pub(crate) async fn forward<C: Client>(
    worker: &Worker,
    client: &mut C,
    request: Request,
    record: &mut Record,
) -> Result<Forwarded, Unanswered> {
    let Request { method, target, headers, body, .. } = request;
    let head = RequestHead { method, target, headers };
    let mut upload = Upload::new(body, worker.gateway.config.body_max, false);
    for address in worker.gateway.apis.in_turn() {
        let key = Key::Api(address.clone());
        loop {
            let mut upstream = match worker.pool.take(&key, true) {
                Some(upstream) => {
                    worker.counters.upstream_reused.add(1);
                    upstream
                }
                None => match unless_gone(client, Upstream::api(&address, &worker.gateway.credential)).await? {
                    Ok(upstream) => {
                        worker.counters.upstream_opened.add(1);
                        upstream
                    }
                    Err(_) => break,
                },
            };
            record.attempts += 1;
            let was_kept = upstream.is_kept();
            let mut exchange =
                Exchange::new(client, &mut upstream, &mut upload, &head, worker.gateway.config.patience());
            match exchange.ask().await {
                Ok(answered) => {
                    let (ended, reusable) = pass_on(exchange, answered, &head.method, Target::Agent, record).await?;
                    if reusable {
                        worker.pool.put(upstream);
                    }
                    return Ok(ended);
                }
                Err(Failed::Client(fault)) => return Err(fault.into()),
                // That a kept connection has ended says nothing, and a GET does nothing.
                Err(Failed::Lost(_)) if was_kept && head.method == "GET" => {}
                Err(Failed::Lost(kind)) => {
                    tracing::debug!(?kind, "an API server was lost");
                    let detail = "The API server was lost before it answered; the request may have run.";
                    return Err(Problem::new(ErrorCode::UpstreamLost, detail).into());
                }
                Err(failed @ (Failed::Protocol(_) | Failed::Timeout)) => return Err(Problem::from(failed).into()),
            }
        }
    }
    Err(ErrorCode::RegistryUnavailable.into())
}

fn set(servers: &mut BTreeMap<String, String>, key: &str, value: Option<&[u8]>) {
    match value.map(|value| records::decode::<ApiServer>(key, value)) {
        Some(Ok(server)) => drop(servers.insert(key.to_owned(), server.address)),
        Some(Err(error)) => tracing::error!(%error, "an API server's record cannot be understood and is left out"),
        None => drop(servers.remove(key)),
    }
}
