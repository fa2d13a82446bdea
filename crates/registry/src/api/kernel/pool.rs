//! A pool: browsers that run already when somebody wants one.
//!
//! Its record names its members before they are made, and whoever finds one missing makes it, under that very id. So any
//! number of API servers may fill a pool at once, and one may die in the middle: never are there more than its size.

use std::collections::BTreeSet;
use std::time::Duration;

use landfast_core::id::PoolId;
use landfast_core::lifecycle::desire_deleted;
use landfast_core::record::{Instance, Phase, keys};
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::{clock, random};
use serde::{Deserialize, Serialize};

use super::super::Api;
use super::super::refusal::Refusal;
use super::label::Labels;
use super::view::is_over;
use super::wish::Wish;
use crate::records::{self, UpdateError};
use crate::store::{Expect, StoreError, Swap};

/// The most browsers of a pool: each is a Chromium that runs.
pub(super) const SIZE_MAX: usize = 100;

/// Attempts to change a pool's record: each failure is somebody else who changed it, and there are few.
const ATTEMPTS: u32 = 16;

/// How long a member that was named may take to be made. Then nobody makes it any more, whoever was to has died.
const NAMED_FOR: Duration = Duration::from_secs(60);

/// A pool as the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pool {
    pub(super) id: PoolId,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) size: usize,
    /// What each of its browsers is to be.
    pub(super) wish: Wish,
    /// What was said of it that changes nothing here, to be said again.
    #[serde(default)]
    pub(super) fill_rate_per_minute: Option<u64>,
    pub(super) members: BTreeSet<InstanceId>,
    pub(super) created_at: u64,
}

/// A member that is there.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) instance: Instance,
    pub(super) is_lent: bool,
}

/// What has become of a pool's members.
#[derive(Debug, Default)]
struct Found {
    there: Vec<Member>,
    /// Named, and not made yet.
    awaited: Vec<InstanceId>,
    ended: BTreeSet<InstanceId>,
}

impl Member {
    /// Whether it may be lent now.
    pub(super) fn is_free(&self) -> bool {
        !self.is_lent && self.instance.phase == Phase::Running
    }
}

/// Finds a pool by its id or its name.
///
/// # Errors
///
/// [`ErrorCode::RequestNotFound`].
pub(super) async fn find(api: &Api, id_or_name: &str) -> Result<Pool, Refusal> {
    let found = match id_or_name.parse::<PoolId>() {
        Ok(id) => read(api, id).await?,
        Err(_) => all(api).await?.into_iter().find(|pool| pool.name.as_deref() == Some(id_or_name)),
    };
    let unknown = || Problem::new(ErrorCode::RequestNotFound, format!("There is no pool {id_or_name:.100?}."));
    Ok(found.ok_or_else(unknown)?)
}

/// A pool.
///
/// # Errors
///
/// The store's.
pub(super) async fn read(api: &Api, id: PoolId) -> Result<Option<Pool>, StoreError> {
    api.store.get(&key(id)).await?.map(|entry| records::decode(&entry.key, &entry.value)).transpose()
}

/// All pools, oldest first.
///
/// # Errors
///
/// The store's.
pub(super) async fn all(api: &Api) -> Result<Vec<Pool>, StoreError> {
    let entries = api.store.list(keys::BROWSER_POOLS).await?.entries;
    Ok(records::readable(entries).into_iter().map(|(pool, _)| pool).collect())
}

/// Writes a new pool.
///
/// # Errors
///
/// The store's.
pub(super) async fn create(api: &Api, pool: &Pool) -> Result<(), Refusal> {
    match api.store.put(&key(pool.id), Expect::Absent, records::encode(pool)?, None).await? {
        Swap::Done(_) => Ok(()),
        Swap::Conflict(_) => Err(ErrorCode::RequestConflict.into()),
    }
}

/// Changes a pool; nothing if it is not there any more.
///
/// # Errors
///
/// The store's, or others changed it all the time.
pub(super) async fn change(api: &Api, id: PoolId, mut change: impl FnMut(&mut Pool)) -> Result<Option<Pool>, Refusal> {
    for _ in 0..ATTEMPTS {
        let Some(entry) = api.store.get(&key(id)).await? else { return Ok(None) };
        let before: Pool = records::decode(&entry.key, &entry.value)?;
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(Some(after));
        }
        match api.store.put(&key(id), Expect::Revision(entry.revision), records::encode(&after)?, None).await? {
            Swap::Done(_) => return Ok(Some(after)),
            Swap::Conflict(_) => {}
        }
    }
    Err(ErrorCode::RequestConflict.into())
}

/// Removes a pool. Its members are for the caller.
///
/// # Errors
///
/// The store's.
pub(super) async fn remove(api: &Api, id: PoolId) -> Result<(), StoreError> {
    while let Some(entry) = api.store.get(&key(id)).await? {
        match api.store.delete(&entry.key, Expect::Revision(entry.revision)).await? {
            Swap::Done(_) => return Ok(()),
            Swap::Conflict(_) => {}
        }
    }
    Ok(())
}

/// The members of a pool that have not ended.
///
/// # Errors
///
/// The store's.
pub(super) async fn members(api: &Api, pool: &Pool) -> Result<Vec<Member>, StoreError> {
    Ok(look(api, pool).await?.there)
}

/// What has become of the members of a pool. Each is read once: what was not there a moment ago may be there now.
async fn look(api: &Api, pool: &Pool) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for &id in &pool.members {
        match records::instance(&*api.store, id).await? {
            Some((instance, _)) if is_over(&instance) => drop(found.ended.insert(id)),
            Some((instance, _)) => {
                let is_lent = Labels::of(&instance).is_lent;
                found.there.push(Member { instance, is_lent });
            }
            None if id.created_at_millis() + NAMED_FOR.as_millis() as u64 > clock::unix_millis() => {
                found.awaited.push(id);
            }
            None => drop(found.ended.insert(id)),
        }
    }
    Ok(found)
}

/// Brings a pool to its size: members that have ended are replaced, and those that are too many and free are ended.
///
/// # Errors
///
/// The store's.
pub(super) async fn fill(api: &Api, id: PoolId) -> Result<(), Refusal> {
    let Some(pool) = read(api, id).await? else { return Ok(()) };
    let Found { there, awaited, ended } = look(api, &pool).await?;
    let mut named = Vec::new();
    let name_them = |pool: &mut Pool| {
        pool.members.retain(|id| !ended.contains(id));
        named.clear();
        while pool.members.len() < pool.size {
            let id = random::instance_id();
            named.push(id);
            pool.members.insert(id);
        }
    };
    let Some(pool) = change(api, id, name_them).await? else { return Ok(()) };
    for member in awaited.into_iter().chain(named).filter(|member| pool.members.contains(member)) {
        make(api, &pool, member).await?;
    }
    let surplus = pool.members.len().saturating_sub(pool.size);
    let free = there.iter().filter(|member| !member.is_lent).take(surplus);
    for member in free {
        discard(api, &pool, member.instance.id).await?;
    }
    Ok(())
}

/// Has a member that nobody has acquired end.
///
/// # Errors
///
/// The store's.
pub(super) async fn discard(api: &Api, pool: &Pool, id: InstanceId) -> Result<(), Refusal> {
    let end = |instance: &mut Instance| {
        if Labels::of(instance).is_lent {
            return Err(ErrorCode::RequestConflict.into());
        }
        Ok(desire_deleted(instance)?)
    };
    match records::update_instance(&*api.store, id, end).await {
        Ok(_) => {
            change(api, pool.id, |pool| pool.members.retain(|member| *member != id)).await?;
            Ok(())
        }
        // It was acquired in this moment, or has ended.
        Err(UpdateError::Refused(_) | UpdateError::Unknown) => Ok(()),
        Err(error @ (UpdateError::Conflict | UpdateError::Store(_))) => Err(error.into()),
    }
}

async fn make(api: &Api, pool: &Pool, id: InstanceId) -> Result<(), Refusal> {
    match records::create_instance(&*api.store, &pool.wish.clone().instance(id, Some(pool.id))).await {
        // A conflict is another server that fills too.
        Ok(_) | Err(UpdateError::Conflict) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn key(id: PoolId) -> String {
    format!("{}{id}", keys::BROWSER_POOLS)
}
