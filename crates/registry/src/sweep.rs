//! Removing what has had its time: revocations of tokens that have long expired, and claims of old idempotency keys.
//!
//! Nothing waits for this, so it is done now and then. Whoever reads such a record looks at its time himself.

use std::time::Duration;

use landfast_core::record::{RevokedToken, keys};
use landfast_net::clock;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::api::Claim;
use crate::records;
use crate::store::{Entry, Expect, Store, StoreError, Swap};

/// How often: records are kept for a day, so a few minutes more are nothing.
const EVERY: Duration = Duration::from_secs(600);

/// Entries read at once.
const STEP: usize = 256;

/// Sweeps now and then, for ever.
pub(crate) async fn run(store: &dyn Store) {
    loop {
        if let Err(error) = once(store, clock::unix_millis()).await {
            tracing::warn!(%error, "cannot remove old records; trying again in {EVERY:?}");
        }
        sleep(EVERY).await;
    }
}

async fn once(store: &dyn Store, unix_millis: u64) -> Result<(), StoreError> {
    each(store, keys::REVOKED, |token: &RevokedToken| token.is_over(unix_millis / 1000)).await?;
    each(store, keys::IDEMPOTENCY, |claim: &Claim| claim.is_over(unix_millis)).await
}

/// Removes the records under a prefix that are over. One that cannot be understood stays.
async fn each<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
    is_over: impl Fn(&T) -> bool,
) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let page = store.page(prefix, &after, STEP).await?.entries;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.key);
        for Entry { key, value, revision } in page {
            if records::decode(&key, &value).is_ok_and(|record| is_over(&record)) {
                // Whoever changed it meanwhile had a reason.
                let (Swap::Done(_) | Swap::Conflict(_)) = store.delete(&key, Expect::Revision(revision)).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use landfast_core::TokenId;

    use super::*;
    use crate::store::conformance::set;
    use crate::store::embedded::EmbeddedStore;

    #[tokio::test]
    async fn only_what_is_over_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&dir.path().join("cell.db")).unwrap();
        let (old, fresh) = (keys::revoked(TokenId::new(1, 1)), keys::revoked(TokenId::new(2, 2)));
        const DAY: u64 = 24 * 60 * 60;
        // Each is kept for a week beyond its token, in case that a clock was wrong.
        for (key, expires_at) in [(&old, 3 * DAY), (&fresh, 3 * DAY + 1)] {
            set(&store, key, &serde_json::to_string(&RevokedToken { expires_at }).unwrap()).await;
        }
        set(&store, "revoked/strange", "not ours").await;
        set(&store, "instances/other", r#"{"expires_at":1}"#).await;
        let claim = |at: u64| {
            format!(r#"{{"request":"x","instance":"{}","claimed_at":{at}}}"#, landfast_core::InstanceId::new(1, 1))
        };
        set(&store, "idempotency/old", &claim(0)).await;
        set(&store, "idempotency/fresh", &claim(9 * DAY * 1000 + 1)).await;
        once(&store, DAY * 1000 - 1).await.unwrap();
        assert_eq!(store.list("idempotency/").await.unwrap().entries.len(), 2);
        once(&store, 10 * DAY * 1000).await.unwrap();
        let left: Vec<String> = store.list("").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!(left, ["idempotency/fresh", "instances/other", "revoked/strange", &fresh]);
    }
}
