//! The store contract: the one thing that every role of a cell shares.
//!
//! Roles never call each other. They read, watch and compare-and-swap the same small records, so everything that must
//! hold between them (one owner per instance, no lost update, no missed change) has to hold here. The contract is small
//! enough that a SQLite file and an etcd cluster can both keep it, and `conformance` is its executable form: a store is
//! one that passes it.
//!
//! * **Keys** are 1 to [`KEY_MAX`] bytes of printable ASCII, **values** at most [`VALUE_MAX`] bytes.
//! * **Revisions** number the changes of the whole store. They only grow, and a change's revision is also the revision
//!   of the entry it made.
//! * **An acknowledged write is durable**, and every read that begins after the acknowledgement sees it, in any process.
//! * **An error says nothing about whether a write happened.** Read again before deciding anything; a compare-and-swap
//!   makes that safe.
//! * **Leases** bind keys to a holder that must renew. When a lease lapses its keys are deleted, as ordinary changes.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use landfast_core::{ErrorCode, Problem};
use landfast_net::memory;

#[cfg(test)]
#[macro_use]
pub(crate) mod conformance;
pub mod embedded;
pub mod etcd;
#[cfg(test)]
mod persistent;
pub(crate) mod told;

/// The longest key: our own are under 64 bytes, and short keys keep an index page full of them.
pub const KEY_MAX: usize = 256;

/// The largest value: far above any record of ours, and below the 1.5 MiB that etcd takes in one request.
pub const VALUE_MAX: usize = 512 * 1024;

/// The number of a change; grows by at least one with each.
pub type Revision = u64;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub key: String,
    /// What it holds.
    pub value: Bytes,
    /// The change that made it so.
    pub revision: Revision,
}

/// What a compare-and-swap must find for the swap to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No entry with this key.
    Absent,
    /// The entry exactly as this change made it.
    Revision(Revision),
}

/// What a compare-and-swap did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// It happened, as the change with this number.
    Done(Revision),
    /// Nothing changed: this is what is there instead of what was expected.
    Conflict(Option<Entry>),
}

/// Names a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub String);

/// All entries under a prefix, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries, in the order of their keys.
    pub entries: Vec<Entry>,
    /// The last change of the whole store that this listing contains. A watch from here misses nothing.
    pub revision: Revision,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose entry changed.
    pub key: String,
    /// What it holds now; `None` when it was deleted.
    pub value: Option<Bytes>,
    /// The number of the change.
    pub revision: Revision,
}

/// What a watch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Everything under the prefix. What is not in it does not exist.
    Snapshot(Listing),
    /// Every change since what the watch said before, in order, none left out. Never empty.
    Changes(Vec<Change>),
    /// The history between what the watch said before and now is no longer kept. A snapshot follows.
    Resync,
    /// The store answers again after an error, and nothing has changed meanwhile that was not told.
    Back,
}

/// A store that roles share. Used as `Arc<dyn Store>`.
///
/// # Cancel safety
///
/// A dropped read did nothing. A dropped write may or may not have happened.
pub trait Store: Send + Sync + 'static {
    /// Reads one entry.
    ///
    /// # Errors
    ///
    /// [`StoreError`], after a bounded wait.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// Reads all entries under a prefix.
    ///
    /// # Errors
    ///
    /// [`StoreError`], after a bounded wait.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Reads at most `limit` entries under a prefix, those whose keys come first after the key `after` (which need not
    /// exist; empty for the first page).
    ///
    /// # Errors
    ///
    /// [`StoreError`], after a bounded wait.
    fn page<'a>(&'a self, prefix: &'a str, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Writes one entry if what is there is as expected. The entry is deleted when `lease` lapses or is revoked; without
    /// one it stays, even if it was bound before.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseLapsed`] if there is no such lease (any more), and the others after a bounded wait.
    fn put<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Bytes,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>>;

    /// Deletes one entry if what is there is as expected. With [`Expect::Absent`] nothing is deleted: it tells whether
    /// the key is absent, and `Done` carries the store's present revision.
    ///
    /// # Errors
    ///
    /// [`StoreError`], after a bounded wait.
    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<Swap, StoreError>>;

    /// Makes a lease that lapses `ttl` from now unless it is renewed.
    ///
    /// # Errors
    ///
    /// [`StoreError`], after a bounded wait.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>>;

    /// Puts off the lapse of a lease to its `ttl` from now. A holder counts from when it asked, which is earlier, so it
    /// always gives up before others may take over.
    ///
    /// # Errors
    ///
    /// [`RenewError::Lapsed`] is final: the keys are gone or about to go. [`RenewError::Store`] leaves the lease as it was
    /// or renewed.
    fn renew<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), RenewError>>;

    /// Ends a lease and deletes its keys. Does nothing if it has ended.
    ///
    /// # Errors
    ///
    /// [`StoreError`], after a bounded wait.
    fn revoke<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Watches everything under a prefix: from a snapshot of now on, or, with `from`, from the change after that one on.
    /// A watch holds no queue: one that is read slowly falls behind, and is told [`WatchEvent::Resync`] when the history
    /// it has not read is no longer kept.
    fn watch(&self, prefix: &str, from: Option<Revision>) -> Watch;
}

/// A listing of this many entries takes a few megabytes.
const LARGE: usize = 10_000;

/// What is read from [`Store::watch`].
pub struct Watch {
    source: Box<dyn WatchSource>,
    /// The last thing said was a listing with many entries.
    was_large: bool,
}

/// What a store implements for [`Watch`].
pub trait WatchSource: Send {
    /// Waits for what there is to say next. Must be cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<WatchEvent, StoreError>>;
}

impl Watch {
    /// Makes a watch that reads `source`.
    pub fn new(source: impl WatchSource + 'static) -> Self {
        Self { source: Box::new(source), was_large: false }
    }

    /// What it reads, for another watch to read.
    pub(crate) fn into_source(self) -> Box<dyn WatchSource> {
        self.source
    }

    /// Waits for what there is to say next.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. The watch stays where it was: the next call goes on from there without a gap, and does not spin
    /// while the error lasts. That it is over is told by what is said next, if only by [`WatchEvent::Back`].
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses nothing.
    pub async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        // Who asks for the next has put the listing away.
        if std::mem::take(&mut self.was_large) {
            memory::give_back();
        }
        let event = self.source.next().await?;
        self.was_large = matches!(&event, WatchEvent::Snapshot(listing) if listing.entries.len() >= LARGE);
        Ok(event)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Why the store did not answer.
///
/// The text inside is for the log: it names files and causes. The client gets the [`Problem`] it converts into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or does not answer in time; the cause may pass.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What it holds cannot be read.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// It holds something that is not ours.
    #[error("this is not a Landfast store: {0}")]
    Foreign(String),
    /// It has no room to write.
    #[error("the store has no room: {0}")]
    Full(String),
    /// A newer release wrote it.
    #[error("the store was written by a newer release: {0}")]
    Version(String),
    /// The write was to be bound to a lease that has lapsed.
    #[error("the lease has lapsed")]
    LeaseLapsed,
    /// The key or value breaks the contract's bounds, which is a mistake of the caller's code.
    #[error("the key or value is not allowed: {0}")]
    Invalid(String),
}

impl StoreError {
    /// The row of the error table.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unavailable(_) => ErrorCode::RegistryUnavailable,
            Self::Corrupt(_) | Self::Foreign(_) => ErrorCode::StoreCorrupt,
            Self::Full(_) => ErrorCode::StoreFull,
            Self::Version(_) => ErrorCode::StoreVersion,
            Self::LeaseLapsed => ErrorCode::StoreLeaseLapsed,
            Self::Invalid(_) => ErrorCode::Internal,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Foreign(_) => Self::new(error.code(), "The store's file belongs to another program."),
            StoreError::Unavailable(_)
            | StoreError::Corrupt(_)
            | StoreError::Full(_)
            | StoreError::Version(_)
            | StoreError::LeaseLapsed
            | StoreError::Invalid(_) => Self::from(error.code()),
        }
    }
}

/// Why a lease was not renewed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    /// It has lapsed, or was revoked.
    #[error("the lease has lapsed")]
    Lapsed,
    /// The store did not answer; the lease may have been renewed or not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks the contract's bounds on a key or a prefix (which may be empty).
///
/// # Errors
///
/// [`StoreError::Invalid`].
pub fn check_key(key: &str) -> Result<(), StoreError> {
    if key.len() > KEY_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(StoreError::Invalid(format!("{key:?} is not at most {KEY_MAX} bytes of printable ASCII")));
    }
    Ok(())
}

/// Checks the contract's bounds on an entry.
///
/// # Errors
///
/// [`StoreError::Invalid`].
pub fn check_entry(key: &str, value: &[u8]) -> Result<(), StoreError> {
    check_key(key)?;
    if key.is_empty() || value.len() > VALUE_MAX {
        return Err(StoreError::Invalid(format!("{key:?} with {} bytes; {VALUE_MAX} is the most", value.len())));
    }
    Ok(())
}
