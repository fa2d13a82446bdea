//! The control plane: instances, nodes and access tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use landfast_core::record::{Desired, Generation, InstanceSpec, Kind, Move, Node, Phase};
use landfast_core::{InstanceId, NodeId, ServiceName, TokenId};
use serde::{Deserialize, Serialize};
use serde_json::json;

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
    /// Why it ended, why its last move was given up, or why no node takes it.
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
    /// Where clients of CDP connect, token included; of a browser that lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdp_url: Option<String>,
    /// An access token for it; kept for the calls that need one, and not shown.
    #[serde(default, skip_serializing)]
    token: Option<String>,
}

/// Where an external instance has moved to. What is not named has not moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MovedTo {
    /// Where its agent listens (`host:port`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Where its services listen (`host:port`).
    pub services: BTreeMap<ServiceName, String>,
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
        self.control_raw(&call.json(&json!({})).idempotent()).await.map(drop)
    }

    /// Moves an instance to the node of this name or id, and waits at most `wait` until it is there.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `move.refused` or `move.failed`.
    pub async fn move_instance(&self, id: InstanceId, node: &str, wait: Duration) -> Result<Instance, Error> {
        let target = format!("/v1/instances/{id}/move?wait={}", wait.as_secs());
        let call = Call::new(Method::POST, target, DEADLINE + wait).json(&json!({ "node": node }));
        self.control(&call.idempotent()).await.map(|instance| self.learn(instance))
    }

    /// Puts an instance to sleep, and waits at most `wait` until it sleeps. The answer is the instance as it is then.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `sleep.refused`.
    pub async fn sleep_instance(&self, id: InstanceId, wait: Duration) -> Result<Instance, Error> {
        self.ask(id, &format!("sleep?wait={}", wait.as_secs()), wait).await
    }

    /// Wakes an instance, and waits at most `wait` until it runs. The answer is the instance as it is then.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn wake_instance(&self, id: InstanceId, wait: Duration) -> Result<Instance, Error> {
        self.ask(id, &format!("wake?wait={}", wait.as_secs()), wait).await
    }

    /// Announces that an external instance is being moved: from now on whatever is for it waits.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `move.refused`.
    pub async fn begin_external_move(&self, id: InstanceId) -> Result<Instance, Error> {
        self.ask(id, "move/begin", Duration::ZERO).await
    }

    /// Tells where an external instance has moved to. After a broken connection it may have been told already: look at the
    /// generation before telling it again.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `move.refused` if no move was begun.
    pub async fn commit_external_move(&self, id: InstanceId, to: &MovedTo) -> Result<Instance, Error> {
        let call = Call::new(Method::POST, format!("/v1/instances/{id}/move/commit"), DEADLINE).json(to);
        self.control(&call).await.map(|instance| self.learn(instance))
    }

    /// Calls the move of an external instance off: it is where it was.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `move.refused` if no move was begun.
    pub async fn abort_external_move(&self, id: InstanceId) -> Result<Instance, Error> {
        let call = Call::new(Method::POST, format!("/v1/instances/{id}/move/abort"), DEADLINE);
        self.control(&call).await.map(|instance| self.learn(instance))
    }

    /// Lists the live nodes.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.control::<Page<Node>>(&get("/v1/nodes".to_owned())).await.map(|page| page.items)
    }

    /// Gives the node of this name or id nothing new. What it runs goes on.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `node.unknown`.
    pub async fn drain_node(&self, node: &str) -> Result<(), Error> {
        self.set_drain(Method::PUT, node).await
    }

    /// Lets the node of this name or id be given instances again.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `node.unknown`.
    pub async fn undrain_node(&self, node: &str) -> Result<(), Error> {
        self.set_drain(Method::DELETE, node).await
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

    /// Asks for a change that may be asked for twice.
    async fn ask(&self, id: InstanceId, verb: &str, wait: Duration) -> Result<Instance, Error> {
        let call = Call::new(Method::POST, format!("/v1/instances/{id}/{verb}"), DEADLINE + wait);
        self.control(&call.json(&json!({})).idempotent()).await.map(|instance| self.learn(instance))
    }

    async fn set_drain(&self, method: Method, node: &str) -> Result<(), Error> {
        self.control_raw(&Call::new(method, format!("/v1/nodes/{}/drain", encode(node)), DEADLINE)).await.map(drop)
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

/// Writes a text so that it can stand in a query or a path.
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
