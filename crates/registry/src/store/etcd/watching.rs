//! A watch: a stream of etcd's from the revision behind what was told, begun anew whenever it breaks.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream};
use futures_util::future::BoxFuture;
use tokio::time::{Sleep, sleep};

use super::{ANSWER_MAX, Cluster, ask, signed};
use crate::store::{Change, Listing, Revision, StoreError, WatchEvent, WatchSource, check_key};

/// How long to wait before trying again after an error.
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// Follows what happens under a prefix.
pub(super) struct Tail {
    cluster: Arc<Cluster>,
    prefix: String,
    /// Everything up to here has been told; `None` when a snapshot is to be told next.
    told: Option<Revision>,
    /// Kept from one wait to the next: whoever never waits for long must hear of the end of what takes longer.
    step: Step,
    /// An error was told, and not yet that it is over.
    failed: bool,
}

/// What a tail waits for.
enum Step {
    /// Nothing yet.
    Begin,
    List(BoxFuture<'static, Result<Listing, StoreError>>),
    Open(BoxFuture<'static, Result<WatchStream, StoreError>>),
    Read(Box<WatchStream>),
    /// The end of the pause after an error.
    Rest(Pin<Box<Sleep>>),
}

impl Tail {
    /// A tail that begins with a snapshot, or after a revision.
    pub(super) fn new(cluster: Arc<Cluster>, prefix: &str, from: Option<Revision>) -> Self {
        Self { cluster, prefix: prefix.to_owned(), told: from, step: Step::Begin, failed: false }
    }

    async fn wait(&mut self) -> Result<WatchEvent, StoreError> {
        check_key(&self.prefix)?;
        loop {
            match &mut self.step {
                Step::Begin => self.step = self.begin(),
                Step::Rest(pause) => {
                    pause.as_mut().await;
                    self.step = Step::Begin;
                }
                Step::List(listing) => {
                    let listing = listing.as_mut().await;
                    self.step = Step::Begin;
                    let listing = listing?;
                    (self.told, self.failed) = (Some(listing.revision), false);
                    return Ok(WatchEvent::Snapshot(listing));
                }
                Step::Open(stream) => {
                    let stream = stream.as_mut().await;
                    self.step = Step::Begin;
                    self.step = Step::Read(Box::new(stream?));
                    if std::mem::take(&mut self.failed) {
                        return Ok(WatchEvent::Back);
                    }
                }
                Step::Read(stream) => {
                    let said = stream.message().await?;
                    if let Some(event) = self.hear(said)? {
                        return Ok(event);
                    }
                }
            }
        }
    }

    fn begin(&self) -> Step {
        let (cluster, prefix) = (self.cluster.clone(), self.prefix.clone());
        match self.told {
            None => Step::List(Box::pin(async move { cluster.list(&prefix).await })),
            Some(told) => Step::Open(Box::pin(async move { open(&cluster, &prefix, told).await })),
        }
    }

    fn hear(&mut self, said: Option<WatchResponse>) -> Result<Option<WatchEvent>, StoreError> {
        let Some(said) = said else { return Err(StoreError::Unavailable("etcd ended a watch".to_owned())) };
        if said.compact_revision() > 0 {
            (self.told, self.step) = (None, Step::Begin);
            return Ok(Some(WatchEvent::Resync));
        }
        if said.canceled() {
            return Err(StoreError::Unavailable(format!("etcd ended a watch: {}", said.cancel_reason())));
        }
        let changes = self.take(&said)?;
        Ok((!changes.is_empty()).then_some(WatchEvent::Changes(changes)))
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
            let next = self.wait().await;
            if next.is_err() {
                (self.step, self.failed) = (Step::Rest(Box::pin(sleep(AFTER_ERROR))), true);
            }
            next
        })
    }
}
