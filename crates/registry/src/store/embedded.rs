//! The embedded store: one SQLite file that all Landfast processes of a machine share.
//!
//! SQLite gives durable transactions between processes, but it blocks, and it does not tell one process that another
//! has committed. So a handle is three threads around the file:
//!
//! * the **writer** groups queued writes into one transaction, so that many of them share one disk flush; each is
//!   answered with its own result, after the commit;
//! * the **reader** has a connection of its own: in WAL mode it never waits for a writer, not even for one of another
//!   process that is flushing;
//! * the **bell** sleeps on inotify of a file that every writer touches after its commit, and wakes the watches whose
//!   prefix changed. It also notices when a lease lapses.
//!
//! A watch is nothing but a place in the change log: it reads on from there when woken. There is no queue that a slow
//! reader could fill.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use self::bell::Bell;
use self::file::{Db, File};
use self::jobs::Job;
use super::{Entry, Expect, LeaseId, Listing, RenewError, Revision, Store, StoreError, Swap, Watch};
use super::{check_entry, check_key};

mod bell;
mod file;
mod jobs;
mod reading;
#[cfg(test)]
mod tests;
mod watching;
mod writing;

/// Requests that wait for a thread: four full groups of writes. Beyond that the caller waits, and its deadline runs.
const QUEUE_MAX: usize = 256;

/// A handle on the embedded store. Every process opens its own; within a process one is enough.
///
/// Needs a tokio runtime with time to be asked, none to be opened.
#[derive(Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

/// What a handle's clones and watches hold together. The threads end when the last of them is dropped.
struct Shared {
    writes: mpsc::Sender<Box<dyn Job>>,
    reads: mpsc::Sender<Box<dyn Job>>,
    bell: Arc<Bell>,
}

impl EmbeddedStore {
    /// Opens the store's file, and makes it if there is none. Blocks for the disk, at most some seconds.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: among others when the file is damaged, belongs to another program, or is of a newer release.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = Arc::new(File::open(path)?);
        let (writes, write_jobs) = mpsc::channel(QUEUE_MAX);
        let (reads, read_jobs) = mpsc::channel(QUEUE_MAX);
        let writer = Db::connect(&file)?;
        let reader = Db::connect_read_only(&file)?;
        let bell = Bell::hang(&file, Db::connect_read_only(&file)?, writes.downgrade())?;
        jobs::spawn("landfast-write", move || jobs::write_loop(writer, write_jobs))?;
        jobs::spawn("landfast-read", move || jobs::read_loop(reader, read_jobs))?;
        Ok(Self { shared: Arc::new(Shared { writes, reads, bell }) })
    }

    async fn write<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Db) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        jobs::ask(&self.shared.writes, act).await
    }
}

impl Shared {
    async fn read<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Db) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        jobs::ask(&self.reads, act).await
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.bell.take_down();
    }
}

impl Store for EmbeddedStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            let key = key.to_owned();
            self.shared.read(move |db| db.entry(&key)).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            check_key(prefix)?;
            let prefix = prefix.to_owned();
            self.shared.read(move |db| db.listing(&prefix)).await
        })
    }

    fn page<'a>(&'a self, prefix: &'a str, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            check_key(prefix)?;
            check_key(after)?;
            let (prefix, after) = (prefix.to_owned(), after.to_owned());
            self.shared.read(move |db| db.page(&prefix, &after, limit)).await
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Bytes,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>> {
        Box::pin(async move {
            check_entry(key, &value)?;
            let (key, lease) = (key.to_owned(), lease.cloned());
            self.write(move |db| db.put(&key, expect, &value, lease.as_ref())).await?.ok_or(StoreError::LeaseLapsed)
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<Swap, StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            let key = key.to_owned();
            self.write(move |db| db.delete(&key, expect)).await
        })
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(self.write(move |db| db.grant(ttl)))
    }

    fn renew<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), RenewError>> {
        Box::pin(async move {
            let lease = lease.clone();
            let renewed = self.write(move |db| db.renew(&lease)).await?;
            if renewed { Ok(()) } else { Err(RenewError::Lapsed) }
        })
    }

    fn revoke<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let lease = lease.clone();
            self.write(move |db| db.end_lease(&lease)).await
        })
    }

    fn watch(&self, prefix: &str, from: Option<Revision>) -> Watch {
        Watch::new(watching::Tail::new(self.shared.clone(), prefix, from))
    }
}
