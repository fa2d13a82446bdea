//! The control plane: instances, nodes and access tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use landfast_core::record::{Desired, Generation, InstanceSpec, Kind, Move, Node, Phase};
use landfast_core::{InstanceId, NodeId, TokenId};
use serde::{Deserialize, Serialize};

use crate::client::{Client, DEADLINE};
use crate::error::Error;
use crate::origin::Call;

/// Instances asked for at once when all are listed.
const PAGE: usize = 200;

/// An instance to create.
#[derive(Clone, Debug, Serialize)]
pub struct CreateInstance {
    /// What it is for.
    pub kind: Kind,
    /// How it is to be.
    pub spec: InstanceSpec,
    /// Labels of the caller's.
    pub labels: BTreeMap<String, String>,
}

/// An instance as the control plane tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// What it is for.
    pub kind: Kind,
    /// How it was asked for.
    pub spec: InstanceSpec,
    /// What should be.
    pub desired: Desired,
    /// What is.
    pub phase: Phase,
    /// The number of its placements.
    pub generation: Generation,
    /// The node it was given to.
    pub node: Option<NodeId>,
    /// The move in progress.
    #[serde(rename = "move", default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Move>,
    /// Why it ended, or why its last move was given up.
    #[serde(default)]
    pub reason: Option<String>,
    /// Labels of the caller's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Unix time in milliseconds.
    pub created_at: u64,
    /// Unix time in milliseconds at which it ended.
    #[serde(default)]
    pub ended_at: Option<u64>,
    /// Where its data plane is.
    #[serde(default)]
    pub base_url: Option<String>,
    /// An access token for it; kept for the calls that need one, and not shown.
    #[serde(default, skip_serializing)]
    token: Option<String>,
}

/// An access token for one instance.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    /// Its id, by which it is revoked.
    pub id: TokenId,
    /// The token. Whoever has it has what it allows.
    pub token: String,
    /// What it allows.
    pub scopes: Vec<String>,
    /// Unix time in milliseconds.
    pub expires_at: u64,
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    #[serde(default)]
    next_cursor: Option<String>,
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessToken").field("id", &self.id).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl Client {
    /// Creates an instance and waits at most `wait` until it runs or has ended. The answer is the instance as it is then.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn create_instance(&self, wish: &CreateInstance, wait: Duration) -> Result<Instance, Error> {
        let target = format!("/v1/instances?wait={}", wait.as_secs());
        let call = Call::new(Method::POST, target, DEADLINE + wait).json(wish).idempotent();
        self.control(&call).await.map(|instance| self.learn(instance))
    }

    /// Looks at an instance; at the tombstone of one that was deleted.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `instance.unknown`.
    pub async fn instance(&self, id: InstanceId) -> Result<Instance, Error> {
        self.control(&get(format!("/v1/instances/{id}"))).await.map(|instance| self.learn(instance))
    }

    /// Lists all instances that were not deleted, however many pages that takes.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn instances(&self) -> Result<Vec<Instance>, Error> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page<Instance> = self.control(&get(format!("/v1/instances?limit={PAGE}{cursor}"))).await?;
            all.extend(page.items.into_iter().map(|instance| self.learn(instance)));
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={}", encode(&next)),
                None => return Ok(all),
            }
        }
    }

    /// Deletes an instance. What is left of it is a tombstone.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn delete_instance(&self, id: InstanceId) -> Result<(), Error> {
        self.control_raw(&Call::new(Method::DELETE, format!("/v1/instances/{id}"), DEADLINE)).await.map(drop)
    }

    /// Stops an instance and keeps its record.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn stop_instance(&self, id: InstanceId) -> Result<(), Error> {
        let call = Call::new(Method::POST, format!("/v1/instances/{id}/stop"), DEADLINE);
        self.control_raw(&call.json(&serde_json::json!({})).idempotent()).await.map(drop)
    }

    /// Moves an instance to the node of this name or id, and waits at most `wait` until it is there.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `move.refused` or `move.failed`.
    pub async fn move_instance(&self, id: InstanceId, node: &str, wait: Duration) -> Result<Instance, Error> {
        let target = format!("/v1/instances/{id}/move?wait={}", wait.as_secs());
        let call = Call::new(Method::POST, target, DEADLINE + wait).json(&serde_json::json!({ "node": node }));
        self.control(&call.idempotent()).await.map(|instance| self.learn(instance))
    }

    /// Lists the live nodes.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.control::<Page<Node>>(&get("/v1/nodes".to_owned())).await.map(|page| page.items)
    }

    /// Makes an access token for one instance: for all of it and for an hour, unless said otherwise.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn create_token(
        &self,
        id: InstanceId,
        scopes: &[&str],
        ttl: Option<Duration>,
    ) -> Result<AccessToken, Error> {
        #[derive(Serialize)]
        struct Wish<'a> {
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            scopes: &'a [&'a str],
            #[serde(skip_serializing_if = "Option::is_none")]
            ttl_seconds: Option<u64>,
        }
        let wish = Wish { scopes, ttl_seconds: ttl.map(|ttl| ttl.as_secs()) };
        let call = Call::new(Method::POST, format!("/v1/instances/{id}/tokens"), DEADLINE);
        self.control(&call.json(&wish).idempotent()).await
    }

    /// Takes an access token back. Sessions that use it end.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn revoke_token(&self, id: TokenId) -> Result<(), Error> {
        self.control_raw(&Call::new(Method::DELETE, format!("/v1/tokens/{id}"), DEADLINE)).await.map(drop)
    }

    /// An instance that was told brings a token for itself.
    fn learn(&self, mut instance: Instance) -> Instance {
        if let Some(token) = instance.token.take() {
            self.keep_token(instance.id, &token);
        }
        instance
    }
}

fn get(target: String) -> Call {
    Call::new(Method::GET, target, DEADLINE)
}

/// Writes a text so that it can stand in a query.
fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut query, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            write!(query, "%{byte:02X}").expect("a String takes everything");
        }
        query
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(extra: &str) -> Instance {
        let id = InstanceId::new(1, 2);
        let json = format!(
            r#"{{"id":"{id}","kind":"sandbox","spec":{{}},"desired":"running","phase":"running","generation":3,
                "node":null,"created_at":1,"later":true{extra}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_token_that_comes_with_an_instance_is_kept_and_not_shown() {
        let client = Client::new("http://127.0.0.1:1", "key").unwrap();
        let learnt = client.learn(instance(r#","token":"jwt","base_url":"http://x/i/y""#));
        assert!(!serde_json::to_string(&learnt).unwrap().contains("jwt"));
        assert!(!format!("{learnt:?}").contains("jwt"));
    }

    #[test]
    fn a_cursor_survives_the_query() {
        assert_eq!(encode("a/b+c=="), "a%2Fb%2Bc%3D%3D");
    }
}
