//! What nobody has to ask for: browsers that were idle for their time are removed, and pools are full.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfast_core::id::PoolId;
use landfast_core::lifecycle::desire_deleted;
use landfast_core::record::{Desired, Instance, Phase, keys};
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::clock;
use tokio::time::{Instant, sleep, timeout_at};

use super::super::Api;
use super::label::Labels;
use super::pool::Pool;
use super::view::is_over;
use super::{lease, names, pool};
use crate::records::{self, UpdateError};
use crate::store::{StoreError, Watch, WatchEvent};

/// How often everything is looked at, whatever was heard: it heals what a server that died left.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How old a browser of a pool that is not there has to be: a pool is read before it is, and may have been made since.
const STRAY_AFTER: Duration = Duration::from_secs(60);

/// How long to wait after the store's failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How often names of browsers that are gone are removed.
const SWEEP_EVERY: u32 = 120;

/// Tends to all of it until the server stops. Each server does; a change is made once, by whoever is first.
pub(in crate::api) async fn tend(api: Arc<Api>) {
    let stop = api.stop.clone();
    stop.run_until_cancelled(async {
        let (mut looks, mut is_failing) = (0_u32, false);
        loop {
            let looked = look_and_listen(&api, looks).await;
            match &looked {
                Ok(()) if is_failing => tracing::info!("browsers and pools are tended again"),
                Ok(()) => {}
                // Once for each outage: it may last, and is tried every second.
                Err(error) if is_failing => tracing::debug!(%error, "browsers and pools are still not tended"),
                Err(error) => tracing::warn!(%error, "browsers and pools are not tended for now"),
            }
            is_failing = looked.is_err();
            if is_failing {
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
    let pools = pool::all(api).await?;
    for pool in &pools {
        lease::tidy(api, pool.id).await;
    }
    remove_strays(api, &pools).await?;
    if looks.is_multiple_of(SWEEP_EVERY) {
        names::sweep(api).await?;
    }
    while let Ok(changed) = timeout_at(until, next(&mut watch)).await {
        let mut pools = BTreeSet::new();
        for instance in changed? {
            let labels = Labels::of(&instance);
            if labels.is_made_here && has_idled(&instance) {
                remove(api, instance.id, has_idled).await;
            }
            pools.extend(labels.pool.filter(|_| is_over(&instance)));
        }
        for pool in pools {
            fill_unless_full(api, pool).await?;
        }
    }
    Ok(())
}

/// Removes browsers that were made for a pool that was deleted in that moment: nobody knows of them, and they never idle.
async fn remove_strays(api: &Api, pools: &[Pool]) -> Result<(), StoreError> {
    let now = clock::unix_millis();
    for (instance, _) in records::instances(&*api.store).await? {
        let labels = Labels::of(&instance);
        let is_known = |pool: PoolId| pools.iter().any(|known| known.id == pool);
        let is_stray = labels.pool.is_some_and(|pool| !is_known(pool)) && !labels.is_lent && !is_over(&instance);
        if is_stray && instance.created_at + STRAY_AFTER.as_millis() as u64 <= now {
            remove(api, instance.id, |_| true).await;
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
        WatchEvent::Resync | WatchEvent::Back => Vec::new(),
    };
    // One that cannot be understood is told of where instances are listed.
    Ok(entries.into_iter().filter_map(|(key, value)| records::decode(&key, &value).ok()).collect())
}

fn has_idled(instance: &Instance) -> bool {
    instance.phase == Phase::Sleeping && instance.desired == Desired::Sleeping
}

/// Removes a browser if that is still true of it.
async fn remove(api: &Api, id: InstanceId, is_useless: fn(&Instance) -> bool) {
    let end = |instance: &mut Instance| {
        if !is_useless(instance) {
            return Err(ErrorCode::RequestConflict.into());
        }
        Ok(desire_deleted(instance)?)
    };
    match records::update_instance(&*api.store, id, end).await {
        Ok(_) => tracing::info!(instance = %id, "a browser that nobody uses is removed"),
        Err(UpdateError::Refused(_) | UpdateError::Unknown) => {}
        Err(error @ (UpdateError::Conflict | UpdateError::Store(_))) => {
            tracing::warn!(instance = %id, %error, "a browser that nobody uses is not removed; trying again later");
        }
    }
}
