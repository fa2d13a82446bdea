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
use crate::store::{Expect, Store, StoreError, Swap};

/// An API key as its holder knows it: `key_<id>_<64 hex digits>`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: KeyId,
    secret: Hex<32>,
}

/// An API key as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredKey {
    /// SHA-256 of the key's text, in base64url.
    sha256: String,
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

    /// The key's text. The caller answers for where it goes.
    pub fn to_text(&self) -> String {
        format!("{}_{}", self.id, self.secret.to_hex())
    }

    /// Makes the key known to the cell. Does nothing if it is.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn publish(&self, store: &dyn Store) -> Result<(), StoreError> {
        let stored = StoredKey { sha256: self.hash() };
        let swap = store.put(&key_of(self.id), Expect::Absent, records::encode(&stored)?, None).await?;
        match swap {
            Swap::Done(_) | Swap::Conflict(_) => Ok(()),
        }
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
