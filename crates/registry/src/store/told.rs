//! A store whose absences are logged, once when each begins and once when it is over.
//!
//! Every instance of a node, every request of an API server and every watch asks the store by itself, and each goes on by itself
//! when that fails. If each said so, an outage would fill the logs at the very time at which somebody reads them. So it is said
//! here, by the one that all of them ask, and they say only what it means to them where that is more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use landfast_core::ErrorCode;
use landfast_core::outage::Outages;
use landfast_net::clock;

use super::{
    Entry, Expect, LeaseId, Listing, RenewError, Revision, Store, StoreError, Swap, Watch, WatchEvent, WatchSource,
};

/// A store that says when it fails.
pub(crate) struct Told<S> {
    store: S,
    outages: Arc<Telling>,
}

/// Never held across an await.
#[derive(Default)]
struct Telling(Mutex<Outages>);

/// What an answer proves.
#[derive(Clone, Copy, PartialEq)]
enum Served {
    /// Somebody could read.
    Read,
    /// Somebody could write.
    Write,
}

impl<S> Told<S> {
    pub(crate) fn new(store: S) -> Self {
        Self { store, outages: Arc::default() }
    }

    async fn watched<T>(&self, served: Served, call: BoxFuture<'_, Result<T, StoreError>>) -> Result<T, StoreError> {
        let answer = call.await;
        self.outages.handle(served, answer.as_ref().err());
        answer
    }
}

impl Telling {
    fn handle(&self, served: Served, error: Option<&StoreError>) {
        let mut outages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            // The caller's own affair, and an answer.
            None | Some(StoreError::LeaseLapsed) => {
                // Who can read may not be able to write.
                let ended = outages.handle_served(|code| code != ErrorCode::StoreFull || served == Served::Write);
                for over in ended {
                    let (code, lasted) = (over.code.as_str(), clock::now().since(over.since));
                    tracing::info!(code, ?lasted, failures = over.failures, "the store works again");
                }
            }
            Some(error) => {
                if outages.handle_failed(error.code(), clock::now()) {
                    let code = error.code().as_str();
                    tracing::warn!(code, %error, "the store fails; this is said once until it works again");
                }
            }
        }
    }
}

impl<S: Store> Store for Told<S> {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(self.watched(Served::Read, self.store.get(key)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(self.watched(Served::Read, self.store.list(prefix)))
    }

    fn page<'a>(&'a self, prefix: &'a str, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(self.watched(Served::Read, self.store.page(prefix, after, limit)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Bytes,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>> {
        Box::pin(async move {
            let swap = self.store.put(key, expect, value, lease).await;
            // A conflict wrote nothing, and proves no more than a read.
            let served = if matches!(swap, Ok(Swap::Done(_))) { Served::Write } else { Served::Read };
            self.outages.handle(served, swap.as_ref().err());
            swap
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<Swap, StoreError>> {
        // A full store may have room for deletions.
        Box::pin(self.watched(Served::Read, self.store.delete(key, expect)))
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(self.watched(Served::Read, self.store.grant(ttl)))
    }

    fn renew<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), RenewError>> {
        Box::pin(async move {
            let renewed = self.store.renew(lease).await;
            let error = match &renewed {
                Err(RenewError::Store(error)) => Some(error),
                Ok(()) | Err(RenewError::Lapsed) => None,
            };
            self.outages.handle(Served::Read, error);
            renewed
        })
    }

    fn revoke<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.watched(Served::Read, self.store.revoke(lease)))
    }

    fn watch(&self, prefix: &str, from: Option<Revision>) -> Watch {
        let source = self.store.watch(prefix, from).into_source();
        Watch::new(TellingWatch { source, outages: self.outages.clone() })
    }
}

struct TellingWatch {
    source: Box<dyn WatchSource>,
    outages: Arc<Telling>,
}

impl WatchSource for TellingWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<WatchEvent, StoreError>> {
        Box::pin(async move {
            let event = self.source.next().await;
            self.outages.handle(Served::Read, event.as_ref().err());
            event
        })
    }
}
