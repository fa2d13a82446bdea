//! A watch: a stream of etcd's from the revision behind what was told, begun anew whenever it breaks.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream};
use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::{ANSWER_MAX, Cluster, ask, signed};
use crate::store::{Change, Revision, StoreError, WatchEvent, WatchSource, check_key};

/// How long to wait before trying again after an error.
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// Follows what happens under a prefix.
pub(super) struct Tail {
    cluster: Arc<Cluster>,
    prefix: String,
    /// Everything up to here has been told; `None` when a snapshot is to be told next.
    told: Option<Revision>,
    stream: Option<WatchStream>,
    failed: bool,
}

impl Tail {
    /// A tail that begins with a snapshot, or after a revision.
    pub(super) fn new(cluster: Arc<Cluster>, prefix: &str, from: Option<Revision>) -> Self {
        Self { cluster, prefix: prefix.to_owned(), told: from, stream: None, failed: false }
    }

    async fn wait(&mut self) -> Result<WatchEvent, StoreError> {
        check_key(&self.prefix)?;
        let Some(told) = self.told else {
            let listing = self.cluster.list(&self.prefix).await?;
            self.told = Some(listing.revision);
            return Ok(WatchEvent::Snapshot(listing));
        };
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(open(&self.cluster, &self.prefix, told).await?),
            };
            let Some(said) = stream.message().await? else {
                return Err(StoreError::Unavailable("etcd ended a watch".to_owned()));
            };
            if said.compact_revision() > 0 {
                (self.told, self.stream) = (None, None);
                return Ok(WatchEvent::Resync);
            }
            if said.canceled() {
                return Err(StoreError::Unavailable(format!("etcd ended a watch: {}", said.cancel_reason())));
            }
            let changes = self.take(&said)?;
            if !changes.is_empty() {
                return Ok(WatchEvent::Changes(changes));
            }
        }
    }

    /// Takes in what was said. All changes of one revision come in one answer, so a watch never stops within one. What an
    /// answer without changes says of the present revision is not believed: changes before it may still be on their way.
    fn take(&mut self, said: &WatchResponse) -> Result<Vec<Change>, StoreError> {
        let changes = said.events().iter().filter_map(|event| self.change(event).transpose());
        let mut changes = changes.collect::<Result<Vec<_>, _>>()?;
        changes.retain(|change| self.told.is_none_or(|told| change.revision > told));
        if let Some(last) = changes.last() {
            self.told = Some(last.revision);
        }
        Ok(changes)
    }

    fn change(&self, event: &Event) -> Result<Option<Change>, StoreError> {
        let Some(found) = event.kv() else { return Ok(None) };
        let entry = self.cluster.entry(found)?;
        let value = match event.event_type() {
            EventType::Put => Some(entry.value),
            EventType::Delete => None,
        };
        Ok(Some(Change { key: entry.key, value, revision: entry.revision }))
    }
}

/// Begins a watch behind a revision.
async fn open(cluster: &Cluster, prefix: &str, told: Revision) -> Result<WatchStream, StoreError> {
    let how = WatchOptions::new().with_prefix().with_start_revision(signed(told) + 1);
    let client = cluster.client().await?.watch_client().max_decoding_message_size(ANSWER_MAX);
    let opened = ask(|| {
        let (mut client, key, how) = (client.clone(), cluster.key(prefix), how.clone());
        async move { client.watch(key, Some(how)).await }
    });
    opened.await
}

impl WatchSource for Tail {
    fn next(&mut self) -> BoxFuture<'_, Result<WatchEvent, StoreError>> {
        Box::pin(async move {
            if self.failed {
                sleep(AFTER_ERROR).await;
                self.failed = false;
            }
            let next = self.wait().await;
            if next.is_err() {
                (self.failed, self.stream) = (true, None);
            }
            next
        })
    }
}
