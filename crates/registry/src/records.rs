//! Typed reads of the records in the store, and the one loop that changes an instance.
//!
//! Every change of an instance is get, change, compare-and-swap, and again if somebody else was first. The closure sees
//! the record it will replace, so a decision is never made on one state and applied to another.

use std::collections::BTreeSet;

use bytes::Bytes;
use landfast_core::lifecycle::desire_awake;
use landfast_core::record::{Desired, Drain, Instance, Node, keys};
use landfast_core::{ErrorCode, InstanceId, NodeId, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{Entry, Expect, Revision, Store, StoreError, Swap};

/// Attempts to change one record. Each failure means that another writer succeeded; an instance has at most four
/// (API, keeper and two nodes), and of all gateways that wake it only the first has anything to write. So this many in a
/// row is a fight and not bad luck.
const ATTEMPTS: u32 = 16;

/// Why an instance was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// There is no such instance.
    #[error("there is no such instance")]
    Unknown,
    /// The change was refused by the one who wanted to make it.
    #[error(transparent)]
    Refused(Problem),
    /// Others changed the record again and again.
    #[error("others changed the record {ATTEMPTS} times in a row")]
    Conflict,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<UpdateError> for Problem {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Unknown => ErrorCode::InstanceUnknown.into(),
            UpdateError::Refused(problem) => problem,
            UpdateError::Conflict => ErrorCode::RequestConflict.into(),
            UpdateError::Store(error) => error.into(),
        }
    }
}

/// Reads one instance.
///
/// # Errors
///
/// [`StoreError`]; [`StoreError::Corrupt`] if the record cannot be understood.
pub async fn instance(store: &dyn Store, id: InstanceId) -> Result<Option<(Instance, Revision)>, StoreError> {
    let entry = store.get(&keys::instance(id)).await?;
    entry.map(|entry| Ok((decode(&entry.key, &entry.value)?, entry.revision))).transpose()
}

/// Reads all instances. One that cannot be understood is left out and logged, so that it does not hide the others.
///
/// # Errors
///
/// [`StoreError`].
pub async fn instances(store: &dyn Store) -> Result<Vec<(Instance, Revision)>, StoreError> {
    Ok(readable(store.list(keys::INSTANCES).await?.entries))
}

/// Reads one live node.
///
/// # Errors
///
/// [`StoreError`]; [`StoreError::Corrupt`] if the record cannot be understood.
pub async fn node(store: &dyn Store, id: NodeId) -> Result<Option<(Node, Revision)>, StoreError> {
    let entry = store.get(&keys::node(id)).await?;
    entry.map(|entry| Ok((decode(&entry.key, &entry.value)?, entry.revision))).transpose()
}

/// Reads all live nodes. One that cannot be understood is left out and logged.
///
/// # Errors
///
/// [`StoreError`].
pub async fn nodes(store: &dyn Store) -> Result<Vec<(Node, Revision)>, StoreError> {
    Ok(readable(store.list(keys::NODES).await?.entries))
}

/// The nodes that an operator drains, live or not.
///
/// # Errors
///
/// [`StoreError`].
pub async fn drains(store: &dyn Store) -> Result<BTreeSet<NodeId>, StoreError> {
    let entries = store.list(keys::DRAINS).await?.entries;
    Ok(entries.iter().filter_map(|entry| entry.key.strip_prefix(keys::DRAINS)?.parse().ok()).collect())
}

/// Says that a node is to be given nothing new, or may be again. Saying so again changes nothing.
///
/// # Errors
///
/// [`StoreError`].
pub async fn set_drain(store: &dyn Store, node: NodeId, drain: Option<Drain>) -> Result<(), StoreError> {
    let key = keys::drain(node);
    let swap = match (drain, store.get(&key).await?) {
        (Some(_), Some(_)) | (None, None) => return Ok(()),
        (Some(drain), None) => store.put(&key, Expect::Absent, encode(&drain)?, None).await?,
        (None, Some(entry)) => store.delete(&key, Expect::Revision(entry.revision)).await?,
    };
    // A conflict is somebody who said something at the same moment; either may have been the last.
    match swap {
        Swap::Done(_) | Swap::Conflict(_) => Ok(()),
    }
}

/// Writes a new instance's record.
///
/// # Errors
///
/// [`UpdateError::Conflict`] if there is one with this id, or [`UpdateError::Store`].
pub async fn create_instance(store: &dyn Store, instance: &Instance) -> Result<Revision, UpdateError> {
    match store.put(&keys::instance(instance.id), Expect::Absent, encode(instance)?, None).await? {
        Swap::Done(revision) => Ok(revision),
        Swap::Conflict(_) => Err(UpdateError::Conflict),
    }
}

/// Changes one instance: reads it, lets `change` have its way, and swaps it in; again from the start if somebody else was
/// first, so `change` may run several times. Writes nothing if `change` changes nothing.
///
/// Not cancel-safe: a dropped call may have written.
///
/// # Errors
///
/// [`UpdateError`].
pub async fn update_instance(
    store: &dyn Store,
    id: InstanceId,
    mut change: impl FnMut(&mut Instance) -> Result<(), Problem>,
) -> Result<Instance, UpdateError> {
    for _ in 0..ATTEMPTS {
        let (before, revision) = instance(store, id).await?.ok_or(UpdateError::Unknown)?;
        let mut after = before.clone();
        change(&mut after).map_err(UpdateError::Refused)?;
        if after == before {
            return Ok(after);
        }
        let swap = store.put(&keys::instance(id), Expect::Revision(revision), encode(&after)?, None).await?;
        match swap {
            Swap::Done(_) => return Ok(after),
            Swap::Conflict(_) => {}
        }
    }
    Err(UpdateError::Conflict)
}

/// Sees to it that an instance that sleeps, or is about to, is woken. Of any other nothing is changed, also not of one
/// that has ended; what it returns tells. Any number of callers wake it once.
///
/// Not cancel-safe: a dropped call may have written.
///
/// # Errors
///
/// [`UpdateError`], but never [`UpdateError::Refused`].
pub async fn wake(store: &dyn Store, id: InstanceId) -> Result<Instance, UpdateError> {
    let change = |instance: &mut Instance| match instance.desired {
        Desired::Sleeping => Ok(desire_awake(instance)?),
        Desired::Running | Desired::Stopped | Desired::Deleted => Ok(()),
    };
    update_instance(store, id, change).await
}

/// Reads a record from an entry's value.
///
/// # Errors
///
/// [`StoreError::Corrupt`].
pub fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Corrupt(format!("the record {key}: {error}")))
}

/// Writes a record as an entry's value.
///
/// # Errors
///
/// [`StoreError::Invalid`] if it has no JSON form, which no record of ours lacks.
pub fn encode<T: Serialize>(record: &T) -> Result<Bytes, StoreError> {
    serde_json::to_vec(record).map(Bytes::from).map_err(|error| StoreError::Invalid(error.to_string()))
}

/// Reads what can be understood of a list; the rest is left out and logged.
pub(crate) fn readable<T: DeserializeOwned>(entries: Vec<Entry>) -> Vec<(T, Revision)> {
    let read = |entry: Entry| match decode(&entry.key, &entry.value) {
        Ok(record) => Some((record, entry.revision)),
        Err(error) => {
            tracing::error!(%error, "a record cannot be understood and is left out");
            None
        }
    };
    entries.into_iter().filter_map(read).collect()
}
