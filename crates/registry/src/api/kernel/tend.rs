//! What nobody has to ask for: browsers that were idle for their time are removed, and pools are full.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfast_core::id::PoolId;
use landfast_core::lifecycle::desire_deleted;
use landfast_core::record::{Desired, Instance, Phase, keys};
use landfast_core::{ErrorCode, InstanceId};
use tokio::time::{Instant, sleep, timeout_at};

use super::super::Api;
use super::label::Labels;
use super::view::is_over;
use super::{lease, names, pool};
use crate::records::{self, UpdateError};
use crate::store::{StoreError, Watch, WatchEvent};

/// How often everything is looked at, whatever was heard: it heals what a server that died left.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How long to wait after the store's failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How often names of browsers that are gone are removed.
const SWEEP_EVERY: u32 = 120;

/// Tends to all of it until the server stops. Each server does; a change is made once, by whoever is first.
pub(in crate::api) async fn tend(api: Arc<Api>) {
    let stop = api.stop.clone();
    stop.run_until_cancelled(async {
        let mut looks = 0_u32;
        loop {
            if let Err(error) = look_and_listen(&api, looks).await {
                tracing::debug!(%error, "browsers and pools are not tended for now");
                sleep(PAUSE).await;
            }
            looks = looks.wrapping_add(1);
        }
    })
    .await;
}

/// Looks at everything once, then hears of changes until it is time to look again.
async fn look_and_listen(api: &Api, looks: u32) -> Result<(), StoreError> {
    let until = Instant::now() + LOOK_EVERY;
    let mut watch = api.store.watch(keys::INSTANCES, None);
    for pool in pool::all(api).await? {
        lease::tidy(api, pool.id).await;
    }
    if looks.is_multiple_of(SWEEP_EVERY) {
        names::sweep(api).await?;
    }
    while let Ok(changed) = timeout_at(until, next(&mut watch)).await {
        let mut pools = BTreeSet::new();
        for instance in changed? {
            let labels = Labels::of(&instance);
            if labels.is_made_here && has_idled(&instance) {
                remove(api, instance.id).await;
            }
            pools.extend(labels.pool.filter(|_| is_over(&instance)));
        }
        for pool in pools {
            fill_unless_full(api, pool).await?;
        }
    }
    Ok(())
}

/// A tombstone is heard of again and again; only a pool that still counts on it is changed.
async fn fill_unless_full(api: &Api, id: PoolId) -> Result<(), StoreError> {
    let Some(pool) = pool::read(api, id).await? else { return Ok(()) };
    if pool::members(api, &pool).await?.len() < pool.size {
        lease::tidy(api, id).await;
    }
    Ok(())
}

async fn next(watch: &mut Watch) -> Result<Vec<Instance>, StoreError> {
    let entries = match watch.next().await? {
        WatchEvent::Snapshot(listing) => listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        WatchEvent::Changes(changes) => {
            changes.into_iter().filter_map(|change| Some((change.key, change.value?))).collect()
        }
        WatchEvent::Resync => Vec::new(),
    };
    // One that cannot be understood is told of where instances are listed.
    Ok(entries.into_iter().filter_map(|(key, value)| records::decode(&key, &value).ok()).collect())
}

fn has_idled(instance: &Instance) -> bool {
    instance.phase == Phase::Sleeping && instance.desired == Desired::Sleeping
}

/// Removes a browser that sleeps, unless it is wanted again.
async fn remove(api: &Api, id: InstanceId) {
    let end = |instance: &mut Instance| {
        if !has_idled(instance) {
            return Err(ErrorCode::RequestConflict.into());
        }
        Ok(desire_deleted(instance)?)
    };
    match records::update_instance(&*api.store, id, end).await {
        Ok(_) => tracing::info!(instance = %id, "a browser was idle for its time and is removed"),
        Err(UpdateError::Refused(_) | UpdateError::Unknown) => {}
        Err(error @ (UpdateError::Conflict | UpdateError::Store(_))) => {
            tracing::warn!(instance = %id, %error, "an idle browser is not removed; trying again later");
        }
    }
}
