//! Names that such clients give, each of which leads to one live thing.
//!
//! A name is an entry of its own with the id of whoever has it, so that two requests cannot give it at once. It is taken
//! over when its holder has ended; nothing has to give it back.

use std::time::Duration;

use landfast_core::record::keys;
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::clock;
use serde::{Deserialize, Serialize};

use super::super::Api;
use super::super::refusal::Refusal;
use super::view::is_over;
use crate::records;
use crate::store::{Expect, StoreError, Swap};

/// Attempts to take a name: each failure is somebody else who wants it.
const ATTEMPTS: u32 = 4;

/// How long after its name a browser's record may come. Then whoever was to write it has died.
const MADE_WITHIN: Duration = Duration::from_secs(60);

/// What the store keeps of a name.
#[derive(Debug, Serialize, Deserialize)]
struct Name {
    instance: InstanceId,
}

/// Gives a browser this name.
///
/// # Errors
///
/// [`ErrorCode::NameTaken`] if a live one has it.
pub(super) async fn take(api: &Api, name: &str, id: InstanceId) -> Result<(), Refusal> {
    let (key, value) = (key(name), records::encode(&Name { instance: id })?);
    for _ in 0..ATTEMPTS {
        let found = api.store.get(&key).await?;
        let expect = match &found {
            None => Expect::Absent,
            Some(entry) => {
                let holder = records::decode::<Name>(&entry.key, &entry.value)?.instance;
                if holder != id && is_live(api, holder).await? {
                    return Err(
                        Problem::new(ErrorCode::NameTaken, format!("The browser {holder} has the name.")).into()
                    );
                }
                Expect::Revision(entry.revision)
            }
        };
        match api.store.put(&key, expect, value.clone(), None).await? {
            Swap::Done(_) => return Ok(()),
            Swap::Conflict(_) => {}
        }
    }
    Err(ErrorCode::RequestConflict.into())
}

/// Takes a name away from a browser, if that one has it.
///
/// # Errors
///
/// The store's.
pub(super) async fn release(api: &Api, name: &str, id: InstanceId) -> Result<(), StoreError> {
    let Some(entry) = api.store.get(&key(name)).await? else { return Ok(()) };
    if records::decode::<Name>(&entry.key, &entry.value)?.instance == id {
        // A conflict is somebody who has taken it over.
        api.store.delete(&entry.key, Expect::Revision(entry.revision)).await?;
    }
    Ok(())
}

/// Finds a browser by its id or its name.
///
/// # Errors
///
/// [`ErrorCode::InstanceUnknown`].
pub(super) async fn find(api: &Api, id_or_name: &str) -> Result<InstanceId, Refusal> {
    if let Ok(id) = id_or_name.parse() {
        return Ok(id);
    }
    let unknown = || Problem::new(ErrorCode::InstanceUnknown, format!("No browser has the name {id_or_name:.100?}."));
    let entry = api.store.get(&key(id_or_name)).await?.ok_or_else(unknown)?;
    Ok(records::decode::<Name>(&entry.key, &entry.value)?.instance)
}

/// Removes names of browsers that are not there any more.
///
/// # Errors
///
/// The store's.
pub(super) async fn sweep(api: &Api) -> Result<(), StoreError> {
    for entry in api.store.list(keys::BROWSER_NAMES).await?.entries {
        let Ok(Name { instance }) = records::decode(&entry.key, &entry.value) else { continue };
        let is_forgotten = records::instance(&*api.store, instance).await?.is_none();
        if is_forgotten && !is_live(api, instance).await? {
            api.store.delete(&entry.key, Expect::Revision(entry.revision)).await?;
        }
    }
    Ok(())
}

/// Whether nobody else may have its name. One that is to be made has its name first, and its record a moment later.
async fn is_live(api: &Api, id: InstanceId) -> Result<bool, StoreError> {
    match records::instance(&*api.store, id).await? {
        Some((instance, _)) => Ok(!is_over(&instance)),
        None => Ok(id.created_at_millis() + MADE_WITHIN.as_millis() as u64 > clock::unix_millis()),
    }
}

fn key(name: &str) -> String {
    format!("{}{name}", keys::BROWSER_NAMES)
}
