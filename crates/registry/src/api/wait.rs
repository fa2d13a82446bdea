//! Waiting for an instance, on the watch and not by asking again and again.

use std::time::Duration;

use landfast_core::record::{Instance, keys};
use landfast_core::{ErrorCode, InstanceId};
use tokio::time::timeout;

use super::Api;
use super::refusal::Refusal;
use crate::records;
use crate::store::{StoreError, Watch, WatchEvent};

/// Waits until `done` says something of the instance's record, but no longer than that; returns what it said and the
/// record as last seen. With no time at all the record is read once.
///
/// # Errors
///
/// The instance is unknown, or the store failed.
pub(super) async fn until<T>(
    api: &Api,
    id: InstanceId,
    longest: Duration,
    mut done: impl FnMut(&Instance) -> Option<T>,
) -> Result<(Option<T>, Instance), Refusal> {
    let mut watch = api.store.watch(&keys::instance(id), None);
    let mut seen = first(&mut watch).await?.ok_or(ErrorCode::InstanceUnknown)?;
    let mut found = done(&seen);
    let waiting = async {
        while found.is_none() {
            for instance in next(&mut watch).await? {
                seen = instance;
                found = found.take().or_else(|| done(&seen));
            }
        }
        Ok::<(), StoreError>(())
    };
    tokio::select! {
        // Time up and stop are answers too: what is known so far.
        ended = timeout(longest, waiting) => ended.unwrap_or(Ok(()))?,
        () = api.stop.cancelled() => {}
    }
    Ok((found, seen))
}

/// Reads the record as a watch of its key begins with it.
async fn first(watch: &mut Watch) -> Result<Option<Instance>, StoreError> {
    Ok(next(watch).await?.pop())
}

/// Waits for the next states of the record. A record that was removed has said its last before.
async fn next(watch: &mut Watch) -> Result<Vec<Instance>, StoreError> {
    match watch.next().await? {
        WatchEvent::Snapshot(listing) => {
            listing.entries.iter().map(|entry| records::decode(&entry.key, &entry.value)).collect()
        }
        WatchEvent::Changes(changes) => {
            let values = changes.iter().filter_map(|change| Some((&change.key, change.value.as_ref()?)));
            values.map(|(key, value)| records::decode(key, value)).collect()
        }
        WatchEvent::Resync | WatchEvent::Back => Ok(Vec::new()),
    }
}
