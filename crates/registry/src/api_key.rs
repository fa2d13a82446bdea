//! API keys: who may use the control plane.
//!
//! The store holds only a hash, so that nobody who reads the store can use it as a key. A key is 256 random bits, which
//! nobody can guess, so one round of SHA-256 is enough: slow hashes are for passwords that people choose.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use landfast_core::id::KeyId;
use landfast_core::record::keys;
use landfast_core::{ErrorCode, Problem};
use landfast_net::random;
use landfast_net::secret::Hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::records;
use crate::store::{Entry, Expect, Store, StoreError, Swap};

/// An API key as its holder knows it: `key_<id>_<64 hex digits>`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: KeyId,
    secret: Hex<32>,
}

/// The name of the key that is made with the data directory.
const FIRST_NAME: &str = "data directory";

/// Keys of a cell: one for each person and program that uses the control plane, and all are read to remove one.
const KEYS_MAX: usize = 1_000;

/// Removed keys that are remembered. Only one that still stands in a data directory could come back, and a cell has one or
/// two of those.
const REMOVED_MAX: usize = 1_000;

/// Attempts to remove a key; each failure means that another one was removed in between.
const ATTEMPTS: u32 = 16;

/// An API key as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredKey {
    /// SHA-256 of the key's text, in base64url.
    sha256: String,
    /// What its maker called it.
    #[serde(default = "first_name")]
    name: String,
}

/// The keys that were removed, in one record: so that two who remove the last two keys at the same moment meet in one
/// compare-and-swap, and so that a key in a data directory is not made known again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Removed {
    /// The newest last.
    ids: Vec<KeyId>,
}

/// What may be told of an API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id, which also tells when it was made.
    pub id: KeyId,
    /// What its maker called it.
    pub name: String,
}

impl ApiKey {
    /// Makes a new key.
    pub fn generate() -> Self {
        Self { id: random::key_id(), secret: Hex::generate() }
    }

    /// Reads a key; `None` if the text has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.rsplit_once('_')?;
        Some(Self { id: id.parse().ok()?, secret: Hex::from_hex(secret)? })
    }

    /// The key's id, which is no secret.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The key's text. The caller answers for where it goes.
    pub fn to_text(&self) -> String {
        format!("{}_{}", self.id, self.secret.to_hex())
    }

    /// Makes the data directory's key known to the cell. Does nothing if it is, or was taken back.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn publish(&self, store: &dyn Store) -> Result<(), StoreError> {
        if removed(store).await?.0.ids.contains(&self.id) {
            return Ok(());
        }
        match self.store(store, FIRST_NAME).await? {
            Swap::Done(_) | Swap::Conflict(_) => Ok(()),
        }
    }

    async fn store(&self, store: &dyn Store, name: &str) -> Result<Swap, StoreError> {
        let stored = StoredKey { sha256: self.hash(), name: name.to_owned() };
        store.put(&key_of(self.id), Expect::Absent, records::encode(&stored)?, None).await
    }

    fn hash(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.to_text()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.id)
    }
}

/// Checks a text that should be an API key of this cell.
///
/// # Errors
///
/// [`ErrorCode::AuthInvalid`] if it is none, or the store's error if that cannot be told.
pub async fn check(store: &dyn Store, text: &str) -> Result<KeyId, Problem> {
    let key = ApiKey::parse(text).ok_or(ErrorCode::AuthInvalid)?;
    let entry = store.get(&key_of(key.id)).await?.ok_or(ErrorCode::AuthInvalid)?;
    let stored: StoredKey = records::decode(&entry.key, &entry.value)?;
    // In constant time, so that how long a refusal takes does not tell how much was right.
    if stored.sha256.as_bytes().ct_eq(key.hash().as_bytes()).into() {
        Ok(key.id)
    } else {
        Err(ErrorCode::AuthInvalid.into())
    }
}

/// Makes a key with a name and makes it known to the cell.
///
/// # Errors
///
/// The cell has too many, or the store's error.
pub async fn create(store: &dyn Store, name: &str) -> Result<ApiKey, Problem> {
    if list(store).await?.len() >= KEYS_MAX {
        return Err(Problem::new(
            ErrorCode::RequestInvalid,
            format!("The cell has {KEYS_MAX} keys; remove one first."),
        ));
    }
    let key = ApiKey::generate();
    match key.store(store, name).await? {
        Swap::Done(_) => Ok(key),
        // Nobody draws the same random id twice.
        Swap::Conflict(_) => Err(ErrorCode::Internal.into()),
    }
}

/// All keys of the cell, oldest first.
///
/// # Errors
///
/// [`StoreError`].
pub async fn list(store: &dyn Store) -> Result<Vec<KeyInfo>, StoreError> {
    let entries = store.list(keys::API_KEYS).await?.entries;
    let info = |entry: &Entry| {
        let id = entry.key.strip_prefix(keys::API_KEYS)?.parse().ok()?;
        let stored: StoredKey = records::decode(&entry.key, &entry.value).ok()?;
        Some(KeyInfo { id, name: stored.name })
    };
    Ok(entries.iter().filter_map(info).collect())
}

/// Takes a key back. One that was half removed is removed whole.
///
/// # Errors
///
/// [`ErrorCode::KeyUnknown`], [`ErrorCode::KeyLast`] if nobody could use the cell without it, or the store's error.
pub async fn remove(store: &dyn Store, id: KeyId) -> Result<(), Problem> {
    let key = key_of(id);
    for _ in 0..ATTEMPTS {
        // Read before the keys, so that whoever removes one in between makes the swap a conflict.
        let (mut gone, expect) = removed(store).await?;
        let found = store.get(&key).await?.ok_or(ErrorCode::KeyUnknown)?;
        if !gone.ids.contains(&id) {
            let is_other = |info: &KeyInfo| info.id != id && !gone.ids.contains(&info.id);
            if !list(store).await?.iter().any(is_other) {
                return Err(ErrorCode::KeyLast.into());
            }
            gone.ids.push(id);
            let oldest = gone.ids.len().saturating_sub(REMOVED_MAX);
            gone.ids.drain(..oldest);
            match store.put(keys::REMOVED_API_KEYS, expect, records::encode(&gone)?, None).await? {
                Swap::Done(_) => {}
                Swap::Conflict(_) => continue,
            }
        }
        // A key's record never changes: a conflict is another who removes it.
        let (Swap::Done(_) | Swap::Conflict(_)) = store.delete(&key, Expect::Revision(found.revision)).await?;
        return Ok(());
    }
    Err(ErrorCode::RequestConflict.into())
}

async fn removed(store: &dyn Store) -> Result<(Removed, Expect), StoreError> {
    let Some(entry) = store.get(keys::REMOVED_API_KEYS).await? else { return Ok((Removed::default(), Expect::Absent)) };
    Ok((records::decode(&entry.key, &entry.value)?, Expect::Revision(entry.revision)))
}

fn first_name() -> String {
    FIRST_NAME.to_owned()
}

fn key_of(id: KeyId) -> String {
    format!("{}{id}", keys::API_KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::EmbeddedStore;

    fn fresh() -> (tempfile::TempDir, EmbeddedStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&dir.path().join("cell.db")).unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn a_published_key_is_accepted_and_its_store_does_not_hold_it() {
        let (_dir, store) = fresh();
        let key = ApiKey::generate();
        key.publish(&store).await.unwrap();
        key.publish(&store).await.unwrap();
        assert_eq!(check(&store, &key.to_text()).await, Ok(key.id));
        let stored = store.list("").await.unwrap().entries;
        assert_eq!(stored.len(), 1);
        assert!(!String::from_utf8_lossy(&stored[0].value).contains(&key.secret.to_hex()));
    }

    #[tokio::test]
    async fn any_other_text_is_refused() {
        let (_dir, store) = fresh();
        let key = ApiKey::generate();
        key.publish(&store).await.unwrap();
        let guess = ApiKey { id: key.id, secret: Hex::generate() };
        let unknown = ApiKey::generate();
        for text in [&guess.to_text(), &unknown.to_text(), "", "_", "key_", &key.id.to_string(), &key.secret.to_hex()] {
            assert_eq!(check(&store, text).await, Err(ErrorCode::AuthInvalid.into()), "{text}");
        }
    }

    #[test]
    fn a_key_is_not_printed_by_accident() {
        let key = ApiKey::generate();
        assert!(!format!("{key:?}").contains(&key.secret.to_hex()));
        assert_eq!(ApiKey::parse(&key.to_text()), Some(key));
    }
}
