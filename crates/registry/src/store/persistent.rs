//! A caller that does what the contract asks of it when the store errs, as a store.
//!
//! *An error says nothing about whether a write happened.* Reads are read again. A write is made again with the same
//! expectation, so that it happens once at most, and is known by a mark in what it wrote: found there, or, where others have
//! written since, in the changes that a watch tells from before it. So the behaviours of the contract can be shown
//! over a store that loses members meanwhile, and show that nothing more than this is needed of a caller.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    Change, Entry, Expect, LeaseId, Listing, RenewError, Revision, Store, StoreError, Swap, VALUE_MAX, Watch,
    WatchEvent, WatchSource,
};

/// For how long it is tried: several times what a cluster needs that has lost its leader.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between tries, so that a store that errs at once is not asked in a loop.
const PAUSE: Duration = Duration::from_millis(50);

/// What stands before a mark, which is the end of a value.
const MARK: &[u8] = b"\nby ";

/// Numbers of writes, for their marks.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// A store whose errors that may pass are waited out.
pub(crate) struct Persistent(pub(crate) Arc<dyn Store>);

impl Store for Persistent {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(async move { Ok(again(|| self.0.get(key)).await?.map(unmarked)) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move { Ok(listed(again(|| self.0.list(prefix)).await?)) })
    }

    fn page<'a>(&'a self, prefix: &'a str, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move { Ok(listed(again(|| self.0.page(prefix, after, limit)).await?)) })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Bytes,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>> {
        Box::pin(async move {
            let before = match expect {
                Expect::Revision(revision) => revision,
                Expect::Absent => again(|| self.0.page("", "", 1)).await?.revision,
            };
            let value = marked(value);
            let is_ours = |found: Option<&Bytes>| found == Some(&value);
            let swap = self.swap(key, before, is_ours, || self.0.put(key, expect, value.clone(), lease)).await?;
            Ok(conflict_unmarked(swap))
        })
    }

    /// A deletion carries no mark: of those who delete one entry of one revision, each takes it for its own if its call was not
    /// answered.
    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<Swap, StoreError>> {
        Box::pin(async move {
            let Expect::Revision(before) = expect else {
                return again(|| self.0.delete(key, expect)).await.map(conflict_unmarked);
            };
            let swap = self.swap(key, before, |found| found.is_none(), || self.0.delete(key, expect)).await?;
            Ok(conflict_unmarked(swap))
        })
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        // One that was granted and not told lapses by itself.
        Box::pin(again(move || self.0.grant(ttl)))
    }

    fn renew<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), RenewError>> {
        Box::pin(async move {
            let until = Instant::now() + PATIENCE;
            loop {
                match self.0.renew(lease).await {
                    Err(RenewError::Store(error)) if may_pass(&error, until) => tokio::time::sleep(PAUSE).await,
                    renewed => return renewed,
                }
            }
        })
    }

    fn revoke<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(again(|| self.0.revoke(lease)))
    }

    fn watch(&self, prefix: &str, from: Option<Revision>) -> Watch {
        Watch::new(Patient(self.0.watch(prefix, from)))
    }
}

impl Persistent {
    /// Makes a write until it is answered. `before` is a revision from before it, and `is_ours` knows what it leaves.
    async fn swap<F>(
        &self,
        key: &str,
        before: Revision,
        is_ours: impl Fn(Option<&Bytes>) -> bool,
        write: impl Fn() -> F,
    ) -> Result<Swap, StoreError>
    where
        F: Future<Output = Result<Swap, StoreError>>,
    {
        let (until, mut is_unsure) = (Instant::now() + PATIENCE, false);
        loop {
            match write().await {
                Err(error) if may_pass(&error, until) => {
                    is_unsure = true;
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(Swap::Conflict(found)) if is_unsure => {
                    let last = found.as_ref().map(|entry| entry.revision);
                    return Ok(match self.look_for(key, before, last, is_ours).await? {
                        Some(revision) => Swap::Done(revision),
                        None => Swap::Conflict(found),
                    });
                }
                answer => return answer,
            }
        }
    }

    /// Looks for a write among the changes of a key behind `before`, up to that of what is there, or to where it was deleted.
    async fn look_for(
        &self,
        key: &str,
        before: Revision,
        last: Option<Revision>,
        is_ours: impl Fn(Option<&Bytes>) -> bool,
    ) -> Result<Option<Revision>, StoreError> {
        let mut watch = Patient(self.0.watch(key, Some(before)));
        loop {
            let told = tokio::time::timeout(PATIENCE, watch.next_marked()).await;
            let told = told.map_err(|_| StoreError::Unavailable(format!("no watch told of {key}")))??;
            let WatchEvent::Changes(changes) = told else {
                return Err(StoreError::Unavailable(format!("the history of {key} is not kept")));
            };
            for change in changes.into_iter().filter(|change| change.key == key) {
                if is_ours(change.value.as_ref()) {
                    return Ok(Some(change.revision));
                }
                if last.map_or(change.value.is_none(), |last| change.revision >= last) {
                    return Ok(None);
                }
            }
        }
    }
}

/// A watch whose errors that may pass are waited out.
struct Patient(Watch);

impl Patient {
    async fn next_marked(&mut self) -> Result<WatchEvent, StoreError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.0.next().await {
                Err(error) if may_pass(&error, until) => {}
                Ok(WatchEvent::Back) => {}
                event => return event,
            }
        }
    }
}

impl WatchSource for Patient {
    fn next(&mut self) -> BoxFuture<'_, Result<WatchEvent, StoreError>> {
        Box::pin(async move {
            Ok(match self.next_marked().await? {
                WatchEvent::Snapshot(listing) => WatchEvent::Snapshot(listed(listing)),
                WatchEvent::Changes(changes) => WatchEvent::Changes(changes.into_iter().map(told).collect()),
                event @ (WatchEvent::Resync | WatchEvent::Back) => event,
            })
        })
    }
}

async fn again<T, F>(ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(error) if may_pass(&error, until) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

fn may_pass(error: &StoreError, until: Instant) -> bool {
    matches!(error, StoreError::Unavailable(_)) && Instant::now() < until
}

/// A value that no other write has. The largest have no room for a mark; they are known by what they are.
fn marked(value: Bytes) -> Bytes {
    let mark = format!("{}-{}", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed));
    let marked = [&value, MARK, mark.as_bytes()].concat();
    if marked.len() > VALUE_MAX { value } else { marked.into() }
}

fn without_mark(mut value: Bytes) -> Bytes {
    if let Some(end) = value.windows(MARK.len()).rposition(|window| window == MARK) {
        value.truncate(end);
    }
    value
}

fn unmarked(entry: Entry) -> Entry {
    Entry { value: without_mark(entry.value), ..entry }
}

fn listed(listing: Listing) -> Listing {
    Listing { entries: listing.entries.into_iter().map(unmarked).collect(), ..listing }
}

fn told(change: Change) -> Change {
    Change { value: change.value.map(without_mark), ..change }
}

fn conflict_unmarked(swap: Swap) -> Swap {
    match swap {
        Swap::Done(revision) => Swap::Done(revision),
        Swap::Conflict(found) => Swap::Conflict(found.map(unmarked)),
    }
}
