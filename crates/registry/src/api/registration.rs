//! How gateways find an API server: a key in the store that lives as long as the server does.

use std::sync::Arc;
use std::time::Duration;

use landfast_core::lease::{RENEW_AFTER, TTL};
use landfast_core::record::{ApiServer, keys};
use landfast_net::role::CancellationToken;
use tokio::time::sleep;

use crate::records;
use crate::store::{Expect, LeaseId, RenewError, Store, StoreError};

/// The pause before trying again after the store failed: several tries fit into a lease.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Writes where the server is.
///
/// # Errors
///
/// [`StoreError`].
pub(super) async fn register(store: &dyn Store, address: &str) -> Result<LeaseId, StoreError> {
    let lease = store.grant(TTL).await?;
    // A lease's id is new, so the key is too.
    let key = format!("{}{}", keys::APIS, lease.0);
    let server = records::encode(&ApiServer { address: address.to_owned() })?;
    store.put(&key, Expect::Absent, server, Some(&lease)).await?;
    Ok(lease)
}

/// Keeps that true until told to stop, then takes it back so that gateways turn elsewhere at once.
pub(super) async fn keep(store: Arc<dyn Store>, address: String, mut lease: LeaseId, stop: CancellationToken) {
    let mut pause = RENEW_AFTER;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
        pause = match renew(&*store, &address, &mut lease).await {
            Ok(()) => RENEW_AFTER,
            Err(error) => {
                tracing::warn!(%error, "cannot renew the lease of this API server; gateways may not find it");
                AGAIN_AFTER
            }
        };
    }
    if let Err(error) = store.revoke(&lease).await {
        tracing::warn!(%error, "cannot take back where this API server is; its lease lapses in {TTL:?}");
    }
}

async fn renew(store: &dyn Store, address: &str, lease: &mut LeaseId) -> Result<(), StoreError> {
    match store.renew(lease).await {
        Ok(()) => Ok(()),
        Err(RenewError::Lapsed) => {
            *lease = register(store, address).await?;
            Ok(())
        }
        Err(RenewError::Store(error)) => Err(error),
    }
}
