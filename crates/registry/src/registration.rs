//! How others find a server of the cell: a key in the store that lives as long as the server does.

use std::sync::Arc;
use std::time::Duration;

use landfast_core::lease::{RENEW_AFTER, TTL};
use landfast_net::role::CancellationToken;
use serde::Serialize;
use tokio::time::sleep;

use crate::records;
use crate::store::{Expect, LeaseId, RenewError, Store, StoreError};

/// The pause before trying again after the store failed: several tries fit into a lease.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A record of where a server is, bound to a lease.
#[derive(Debug)]
pub struct Registration<T> {
    prefix: &'static str,
    record: T,
    /// None as long as the store has not taken it.
    lease: Option<LeaseId>,
}

impl<T: Serialize> Registration<T> {
    /// Writes the record, under a prefix and a key of its own.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn write(store: &dyn Store, prefix: &'static str, record: T) -> Result<Self, StoreError> {
        let lease = put(store, prefix, &record).await?;
        Ok(Self { prefix, record, lease: Some(lease) })
    }

    /// The same for who can do without: it is written as soon as the store takes it.
    pub const fn pending(prefix: &'static str, record: T) -> Self {
        Self { prefix, record, lease: None }
    }

    /// Keeps that true until told to stop, then takes it back so that others turn elsewhere at once.
    pub async fn keep(mut self, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut pause = if self.lease.is_some() { RENEW_AFTER } else { Duration::ZERO };
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
            pause = match self.renew(&*store).await {
                Ok(()) => RENEW_AFTER,
                Err(error) => {
                    tracing::debug!(%error, prefix = self.prefix, "cannot renew where this server is; others may not find it");
                    AGAIN_AFTER
                }
            };
        }
        let Some(lease) = &self.lease else { return };
        if let Err(error) = store.revoke(lease).await {
            tracing::warn!(%error, prefix = self.prefix, "cannot take back where this server is; its lease lapses in {TTL:?}");
        }
    }

    async fn renew(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let renewed = match &self.lease {
            Some(lease) => store.renew(lease).await,
            None => Err(RenewError::Lapsed),
        };
        match renewed {
            Ok(()) => Ok(()),
            Err(RenewError::Lapsed) => {
                self.lease = Some(put(store, self.prefix, &self.record).await?);
                Ok(())
            }
            Err(RenewError::Store(error)) => Err(error),
        }
    }
}

async fn put(store: &dyn Store, prefix: &str, record: &impl Serialize) -> Result<LeaseId, StoreError> {
    let lease = store.grant(TTL).await?;
    // A lease's id is new, so the key is too.
    let key = format!("{prefix}{}", lease.0);
    store.put(&key, Expect::Absent, records::encode(record)?, Some(&lease)).await?;
    Ok(lease)
}
