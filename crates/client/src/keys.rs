//! The control plane's API keys.

use http::Method;
use landfast_core::id::KeyId;
use serde::{Deserialize, Serialize};

use crate::client::{Client, DEADLINE};
use crate::error::Error;
use crate::origin::Call;

/// An API key, without what would let anybody use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id, by which it is taken back.
    pub id: KeyId,
    /// What its maker called it.
    pub name: String,
    /// Unix time in milliseconds at which it was made.
    pub created_at: u64,
    /// Whether it is the one that this client uses.
    pub current: bool,
}

/// A new API key. The cell keeps only a hash of it, so this is the only time that it is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewApiKey {
    /// Its id, by which it is taken back.
    pub id: KeyId,
    /// What its maker called it.
    pub name: String,
    /// The key. Whoever has it has the control plane.
    pub key: String,
}

impl std::fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApiKey").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes an API key. After a broken connection there may be one that nobody knows; [`Self::api_keys`] shows it.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn create_api_key(&self, name: &str) -> Result<NewApiKey, Error> {
        let call = Call::new(Method::POST, "/v1/keys", DEADLINE);
        self.control(&call.json(&serde_json::json!({ "name": name }))).await
    }

    /// Lists the API keys, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn api_keys(&self) -> Result<Vec<ApiKey>, Error> {
        #[derive(Deserialize)]
        struct List {
            items: Vec<ApiKey>,
        }
        let list: List = self.control(&Call::new(Method::GET, "/v1/keys", DEADLINE)).await?;
        Ok(list.items)
    }

    /// Takes an API key back.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `key.unknown` or `key.last`.
    pub async fn remove_api_key(&self, id: KeyId) -> Result<(), Error> {
        self.control_raw(&Call::new(Method::DELETE, format!("/v1/keys/{id}"), DEADLINE)).await.map(drop)
    }
}
