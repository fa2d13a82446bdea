//! The client itself: the gateways of one cell, one API key, and the access tokens it fetched with it.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use landfast_core::{ErrorCode, InstanceId, Retry};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::gateways::Gateways;
use crate::origin::Call;
use crate::retry::Retries;

/// How long an ordinary call may take: longer than the gateway parks a request (30 s).
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// For how many instances tokens are kept.
const TOKENS_MAX: usize = 10_000;

/// A way into a cell. Copies share what was learnt; it holds no connection.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    gateways: Gateways,
    api_key: String,
    tokens: Mutex<Tokens>,
}

/// Access tokens by instance, with when each was last used.
#[derive(Default)]
struct Tokens {
    by_instance: HashMap<InstanceId, (String, u64)>,
    uses: u64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("gateways", &self.inner.gateways.to_string()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the cell at `base_url`, such as `http://127.0.0.1:7070`, or several of its gateways, separated by commas.
    /// Any of them goes on with what another began. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a URL is none, or not of a form that can be reached.
    pub fn new(base_url: &str, api_key: impl Into<String>) -> Result<Self, Error> {
        Self::trusting(base_url, api_key, None)
    }

    /// A client that believes the authorities in a file, PEM, and no others, instead of those of this machine.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; also if the file cannot be read.
    pub fn trusting(base_url: &str, api_key: impl Into<String>, authority: Option<&Path>) -> Result<Self, Error> {
        let gateways = Gateways::parse(base_url, authority)?;
        let inner = Inner { gateways, api_key: api_key.into(), tokens: Mutex::new(Tokens::default()) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where the cell is.
    pub(crate) fn gateways(&self) -> &Gateways {
        &self.inner.gateways
    }

    /// The API key; empty if there is none.
    pub(crate) fn api_key(&self) -> &str {
        &self.inner.api_key
    }

    /// Whether there is one.
    pub(crate) fn has_key(&self) -> bool {
        !self.inner.api_key.is_empty()
    }

    /// A path of an instance's data plane.
    pub(crate) fn data_path(instance: InstanceId, path: &str) -> String {
        format!("/i/{instance}{path}")
    }

    /// Calls the control plane and reads its JSON.
    pub(crate) async fn control<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        decode(&self.control_raw(call).await?)
    }

    /// Calls the control plane. Repeats what may be repeated.
    pub(crate) async fn control_raw(&self, call: &Call) -> Result<Response<Bytes>, Error> {
        let mut again = Again::default();
        loop {
            match self.gateways().call(call, &self.inner.api_key).await {
                Ok(response) => return Ok(response),
                Err(error) => again.wait_or_give_up(self.gateways(), error, call).await?,
            }
        }
    }

    /// Calls an instance's data plane and reads its JSON.
    pub(crate) async fn data<T: DeserializeOwned>(&self, instance: InstanceId, call: &Call) -> Result<T, Error> {
        decode(&self.data_raw(instance, call).await?)
    }

    /// Calls an instance's data plane with an access token that is fetched, and fetched anew, as needed.
    pub(crate) async fn data_raw(&self, instance: InstanceId, call: &Call) -> Result<Response<Bytes>, Error> {
        let (mut again, mut renewed) = (Again::default(), false);
        loop {
            let token = self.token(instance).await?;
            match self.gateways().call(call, &token).await {
                Ok(response) => return Ok(response),
                Err(error) if wants_new_token(error.code()) && !renewed => {
                    renewed = true;
                    self.forget_token(instance, &token);
                }
                Err(error) => again.wait_or_give_up(self.gateways(), error, call).await?,
            }
        }
    }

    /// An access token for an instance, from memory or from the control plane.
    pub(crate) async fn token(&self, instance: InstanceId) -> Result<String, Error> {
        if let Some(token) = self.tokens().get(instance) {
            return Ok(token);
        }
        #[derive(Deserialize)]
        struct Answer {
            token: String,
        }
        let call = Call::new(Method::POST, format!("/v1/instances/{instance}/tokens"), DEADLINE);
        let answer: Answer = self.control(&call.json(&serde_json::json!({})).idempotent()).await?;
        self.keep_token(instance, &answer.token);
        Ok(answer.token)
    }

    /// Remembers a token that came with another answer.
    pub(crate) fn keep_token(&self, instance: InstanceId, token: &str) {
        self.tokens().keep(instance, token);
    }

    /// Forgets a token that was refused, unless a newer one has taken its place.
    pub(crate) fn forget_token(&self, instance: InstanceId, token: &str) {
        let mut tokens = self.tokens();
        if tokens.by_instance.get(&instance).is_some_and(|(kept, _)| kept == token) {
            tokens.by_instance.remove(&instance);
        }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.inner.tokens.lock().expect("no holder panics")
    }
}

impl Tokens {
    fn get(&mut self, instance: InstanceId) -> Option<String> {
        self.uses += 1;
        let (token, used) = self.by_instance.get_mut(&instance)?;
        *used = self.uses;
        Some(token.clone())
    }

    fn keep(&mut self, instance: InstanceId, token: &str) {
        if self.by_instance.len() >= TOKENS_MAX && !self.by_instance.contains_key(&instance) {
            let oldest = self.by_instance.iter().min_by_key(|(_, (_, used))| *used).map(|(&instance, _)| instance);
            oldest.map(|oldest| self.by_instance.remove(&oldest));
        }
        self.uses += 1;
        self.by_instance.insert(instance, (token.to_owned(), self.uses));
    }
}

/// Whether a refusal is about the token and not about what was asked.
pub(crate) fn wants_new_token(code: Option<ErrorCode>) -> bool {
    matches!(code, Some(ErrorCode::AuthExpired | ErrorCode::AuthInvalid))
}

/// Reads an answer's JSON.
pub(crate) fn decode<T: DeserializeOwned>(response: &Response<Bytes>) -> Result<T, Error> {
    serde_json::from_slice(response.body())
        .map_err(|error| Error::Protocol(format!("its answer was not understood: {error}")))
}

/// The repeating of one call.
#[derive(Default)]
pub(crate) struct Again {
    retries: Retries,
    /// An attempt that may have run. Whatever later ones come to, it is what the caller has to know of.
    unsure: Option<Error>,
}

impl Again {
    /// Waits for the next attempt, or returns why there is none.
    pub(crate) async fn wait_or_give_up(
        &mut self,
        gateways: &Gateways,
        error: Error,
        call: &Call,
    ) -> Result<(), Error> {
        let Some(wait) = self.retries.after(&error, call.is_repeatable(), rand::random()) else {
            let says_nothing_ran = error.retry() == Retry::Safe;
            return Err(self.unsure.take().filter(|_| says_nothing_ran).unwrap_or(error));
        };
        let is_silence = error.is_transport() && gateways.has_fresh();
        tracing::debug!(%error, ?wait, is_silence, method = %call.method, target = call.target, "trying again");
        if matches!(error, Error::Broken { .. }) {
            self.unsure = Some(error);
        }
        if !is_silence {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_used_longest_ago_makes_room() {
        let mut tokens = Tokens::default();
        let id = |n| InstanceId::new(n, 0);
        for n in 0..TOKENS_MAX as u64 {
            tokens.keep(id(n), "t");
        }
        assert!(tokens.get(id(0)).is_some());
        tokens.keep(id(1_000_000), "new");
        assert_eq!(tokens.by_instance.len(), TOKENS_MAX);
        assert!(tokens.get(id(0)).is_some() && tokens.get(id(1)).is_none());
    }

    #[test]
    fn a_refused_token_is_forgotten_only_if_it_is_the_one_kept() {
        let client = Client::new("http://127.0.0.1:1", "key").unwrap();
        let id = InstanceId::new(1, 1);
        client.keep_token(id, "new");
        client.forget_token(id, "old");
        assert_eq!(client.tokens().get(id).as_deref(), Some("new"));
        client.forget_token(id, "new");
        assert_eq!(client.tokens().get(id), None);
    }

    #[test]
    fn the_key_is_not_printed() {
        assert!(!format!("{:?}", Client::new("http://127.0.0.1:1", "secret").unwrap()).contains("secret"));
    }
}
