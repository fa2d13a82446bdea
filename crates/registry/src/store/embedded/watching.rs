//! A watch: a place in the change log.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::bell::Ear;
use super::reading::History;
use crate::store::{Revision, StoreError, WatchEvent, WatchSource, check_key};

/// How long to wait before trying again after an error, unless something changes first.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Follows the change log under a prefix.
pub(super) struct Tail {
    shared: Arc<Shared>,
    ear: Arc<Ear>,
    prefix: String,
    /// Everything up to here has been told; `None` when a snapshot is to be told next.
    told: Option<Revision>,
    /// Whether the log had nothing more when it was read last, and the ear has heard nothing since.
    idle: bool,
    /// An error was told, and not yet that it is over.
    failed: bool,
    /// When to try again after an error.
    again_at: Option<Instant>,
}

impl Tail {
    /// A tail that begins with a snapshot, or after a revision.
    pub(super) fn new(shared: Arc<Shared>, prefix: &str, from: Option<Revision>) -> Self {
        let ear = shared.bell.ear(prefix);
        Self { shared, ear, prefix: prefix.to_owned(), told: from, idle: false, failed: false, again_at: None }
    }

    async fn wait(&mut self) -> Result<WatchEvent, StoreError> {
        check_key(&self.prefix)?;
        loop {
            if !self.idle {
                let event = self.read().await?;
                let was_failing = std::mem::take(&mut self.failed);
                if let Some(event) = event {
                    return Ok(event);
                }
                self.idle = true;
                if was_failing {
                    return Ok(WatchEvent::Back);
                }
            }
            self.ear.listen().await;
            self.idle = false;
        }
    }

    async fn read(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        let prefix = self.prefix.clone();
        let Some(told) = self.told else {
            let listing = self.shared.read(move |db| db.listing(&prefix)).await?;
            self.told = Some(listing.revision);
            return Ok(Some(WatchEvent::Snapshot(listing)));
        };
        match self.shared.read(move |db| db.history(&prefix, told)).await? {
            History::Known(changes, read_to) => {
                self.told = Some(read_to);
                Ok((!changes.is_empty()).then_some(WatchEvent::Changes(changes)))
            }
            History::Forgotten => {
                self.told = None;
                Ok(Some(WatchEvent::Resync))
            }
        }
    }
}

impl WatchSource for Tail {
    fn next(&mut self) -> BoxFuture<'_, Result<WatchEvent, StoreError>> {
        Box::pin(async move {
            if let Some(at) = self.again_at {
                // Both ends of this wait mean the same: try again.
                let _ = timeout_at(at, self.ear.listen()).await;
                self.again_at = None;
            }
            let next = self.wait().await;
            if next.is_err() {
                (self.failed, self.again_at) = (true, Some(Instant::now() + AFTER_ERROR));
            }
            next
        })
    }
}
