//! The store of many machines: an etcd cluster.
//!
//! etcd keeps the contract almost by itself. Its revisions are the contract's, a transaction of one comparison is a
//! compare-and-swap, its leases take their keys along, and a watch from a revision misses nothing, or is told that what it
//! wants was compacted. What is added here: every call has a deadline, large listings are read in pages of one revision,
//! and an answer that did not come says nothing about whether a write happened.
//!
//! A call goes to whichever member answers. A member that has lost its quorum refuses what is asked of it, because reads
//! are linearizable and watches demand a leader.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

pub use self::address::EtcdAddress;
use super::{
    Entry, Expect, LeaseId, Listing, RenewError, Revision, Store, StoreError, Swap, Watch, check_entry, check_key,
};

mod address;
#[cfg(test)]
mod tests;
mod watching;

/// How long a call may take: longer than etcd needs to choose another leader (one to two seconds).
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// How long one member may take to answer what another may be asked as well: one that does not answer costs no lease, of which
/// 4 s are left when it is asked for. Ten times what a busy member takes.
const TRY_WITHIN: Duration = Duration::from_millis(500);

/// Between two members of which the first is not there.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// How long a connection may take to stand.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// A connection on which an answer or news is awaited is asked for a sign of life after so much silence. Members count what asks
/// more often than every 5 s, or on an idle connection, as an attack, and end the connection at the third time.
const KEEP_ALIVE: Duration = Duration::from_secs(6);

/// It is given up if it does not answer within this: with the silence before, still before a lease of ten seconds lapses.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);

/// Entries in the first page of a listing: with the largest records still below [`ANSWER_MAX`].
const PAGE: i64 = 256;

/// The most entries in a further page, and about how many bytes it is to have. etcd counts all that is left for each page, so
/// that a listing in small ones costs the square of its length.
const LARGE_PAGE: (i64, usize) = (20_000, 16 << 20);

/// The most bytes of one answer: a page whose every record is as large as records get.
const ANSWER_MAX: usize = 192 << 20;

/// What a member says that knows of no leader.
const NO_LEADER: &str = "etcdserver: no leader";

/// What gRPC calls the service's being unavailable, in numbers.
const UNAVAILABLE: i32 = 14;

/// A handle on a cluster. Clones share one connection to each member.
#[derive(Clone)]
pub struct EtcdStore {
    cluster: Arc<Cluster>,
}

/// A cluster, and where in it ours begins.
struct Cluster {
    address: EtcdAddress,
    client: OnceCell<Client>,
}

impl EtcdStore {
    /// A handle on the cluster at an address. Nothing is sent yet.
    pub fn new(address: EtcdAddress) -> Self {
        Self { cluster: Arc::new(Cluster { address, client: OnceCell::new() }) }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EtcdStore").field(&self.cluster.address).finish()
    }
}

impl Cluster {
    /// A client of the cluster. Members are dialled when they are needed; with a password one must answer first.
    async fn client(&self) -> Result<Client, StoreError> {
        let connect = async {
            let options = ConnectOptions::new()
                .with_connect_timeout(CONNECT_DEADLINE)
                .with_keep_alive(KEEP_ALIVE, ALIVE_WITHIN)
                .with_require_leader(true)
                .with_auto_token_refresh(true);
            let options = self.address.identify(options)?;
            Client::connect(self.address.endpoints(), Some(options)).await.map_err(StoreError::from)
        };
        let connected = timeout(CALL_DEADLINE, self.client.get_or_try_init(|| connect)).await;
        connected.map_err(|_| late())?.cloned()
    }

    /// The key in the cluster.
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.address.root())
    }

    fn entry(&self, found: &KeyValue) -> Result<Entry, StoreError> {
        let key = found.key_str().ok().and_then(|key| key.strip_prefix(self.address.root()));
        let key = key.ok_or_else(|| StoreError::Corrupt(format!("a key that is none of ours: {:?}", found.key())))?;
        let value = Bytes::copy_from_slice(found.value());
        Ok(Entry { key: key.to_owned(), value, revision: revision(found.mod_revision()) })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let client = self.client().await?.kv_client();
        let answer = ask_anybody(|| {
            let (mut client, key) = (client.clone(), self.key(key));
            async move { client.get(key, None).await }
        });
        let answer = answer.await?;
        answer.kvs().first().map(|found| self.entry(found)).transpose()
    }

    /// Reads everything under a prefix as of one revision, page by page.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check_key(prefix)?;
        let mut listing = self.page(prefix, "", PAGE, None).await?;
        let (mut limit, mut last) = (PAGE, listing.entries.len());
        while last as i64 == limit {
            let after = listing.entries.last().map(|entry| entry.key.clone()).unwrap_or_default();
            let as_of = Some(listing.revision);
            limit = next_page(&listing.entries[listing.entries.len() - last..]);
            let page = match self.page(prefix, &after, limit, as_of).await {
                // What comes may be larger than what came, and too much for one answer.
                Err(_) if limit > PAGE => {
                    limit = PAGE;
                    self.page(prefix, &after, limit, as_of).await?
                }
                page => page?,
            };
            last = page.entries.len();
            listing.entries.extend(page.entries);
        }
        Ok(listing)
    }

    /// Reads a page, as of now or of a revision. One that was compacted meanwhile is an error, and the listing is begun anew.
    async fn page(
        &self,
        prefix: &str,
        after: &str,
        limit: i64,
        as_of: Option<Revision>,
    ) -> Result<Listing, StoreError> {
        let (first, end) = (self.key(prefix), end_of(self.key(prefix)));
        // The smallest key behind another is the same with a zero byte.
        let from = if after < prefix { first } else { format!("{}\0", self.key(after)) };
        let mut how = GetOptions::new().with_range(end).with_limit(limit);
        if let Some(revision) = as_of {
            how = how.with_revision(signed(revision));
        }
        let client = self.client().await?.kv_client().max_decoding_message_size(ANSWER_MAX);
        let answer = ask(|| {
            let (mut client, from, how) = (client.clone(), from.clone(), how.clone());
            async move { client.get(from, Some(how)).await }
        });
        let answer = answer.await?;
        let entries = answer.kvs().iter().map(|found| self.entry(found)).collect::<Result<_, _>>()?;
        let now = answer.header().map_or(0, |header| revision(header.revision()));
        Ok(Listing { entries, revision: as_of.unwrap_or(now) })
    }

    /// Does `act` if the key is as expected, and reads what is there otherwise.
    async fn swap(&self, key: &str, expect: Expect, act: Vec<TxnOp>) -> Result<Swap, StoreError> {
        let at = self.key(key);
        let compare = match expect {
            Expect::Absent => Compare::version(at.clone(), CompareOp::Equal, 0),
            Expect::Revision(revision) => Compare::mod_revision(at.clone(), CompareOp::Equal, signed(revision)),
        };
        let swap = Txn::new().when(vec![compare]).and_then(act).or_else(vec![TxnOp::get(at, None)]);
        let client = self.client().await?.kv_client();
        let answer = ask(|| {
            let (mut client, swap) = (client.clone(), swap.clone());
            async move { client.txn(swap).await }
        });
        let answer = answer.await?;
        if answer.succeeded() {
            return Ok(Swap::Done(answer.header().map_or(0, |header| revision(header.revision()))));
        }
        self.found(&answer).map(Swap::Conflict)
    }

    fn found(&self, answer: &TxnResponse) -> Result<Option<Entry>, StoreError> {
        let read = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(read) => read.kvs().first().map(|found| self.entry(found)),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        read.transpose()
    }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(self.cluster.get(key))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(self.cluster.list(prefix))
    }

    fn page<'a>(&'a self, prefix: &'a str, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            check_key(prefix)?;
            check_key(after)?;
            self.cluster.page(prefix, after, i64::try_from(limit).unwrap_or(i64::MAX), None).await
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
            let how = lease.map(|lease| number(lease).map(|id| PutOptions::new().with_lease(id))).transpose()?;
            let put = TxnOp::put(self.cluster.key(key), value, how);
            self.cluster.swap(key, expect, vec![put]).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<Swap, StoreError>> {
        Box::pin(async move {
            check_key(key)?;
            let act = match expect {
                Expect::Absent => Vec::new(),
                Expect::Revision(_) => vec![TxnOp::delete(self.cluster.key(key), None)],
            };
            self.cluster.swap(key, expect, act).await
        })
    }

    /// etcd counts in whole seconds, and gives a little more where less is asked than it takes to choose a leader.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
            let client = self.cluster.client().await?.lease_client();
            let granted = ask(|| {
                let mut client = client.clone();
                async move { client.grant(seconds, None).await }
            });
            let granted = granted.await?;
            Ok(LeaseId(granted.id().to_string()))
        })
    }

    fn renew<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), RenewError>> {
        Box::pin(async move {
            let id = number(lease).map_err(|_| RenewError::Lapsed)?;
            let client = self.cluster.client().await?.lease_client();
            let renewed = ask_anybody(|| {
                let mut client = client.clone();
                async move { client.keep_alive(id).await }
            });
            match renewed.await {
                Ok(_) => Ok(()),
                Err(StoreError::LeaseLapsed) => Err(RenewError::Lapsed),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn revoke<'a>(&'a self, lease: &'a LeaseId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let Ok(id) = number(lease) else { return Ok(()) };
            let client = self.cluster.client().await?.lease_client();
            let revoked = ask(|| {
                let mut client = client.clone();
                async move { client.revoke(id).await }
            });
            match revoked.await {
                Ok(_) | Err(StoreError::LeaseLapsed) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn watch(&self, prefix: &str, from: Option<Revision>) -> Watch {
        Watch::new(watching::Tail::new(self.cluster.clone(), prefix, from))
    }
}

/// Asks, and asks another member as long as the call was not even sent, for so long as a call may take.
async fn ask<T, F>(call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    let asked = async {
        loop {
            match call().await {
                Err(error) if was_not_sent(&error) => sleep(ASK_AGAIN_AFTER).await,
                answer => return answer.map_err(StoreError::from),
            }
        }
    };
    timeout(CALL_DEADLINE, asked).await.map_err(|_| late())?
}

/// How many entries to ask for after these.
fn next_page(last: &[Entry]) -> i64 {
    let bytes: usize = last.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
    let each = bytes.div_ceil(last.len().max(1)).max(1);
    i64::try_from(LARGE_PAGE.1 / each).unwrap_or(i64::MAX).clamp(PAGE, LARGE_PAGE.0)
}

/// Asks, and asks again whoever is next, as long as nobody answers: for calls that may be made twice.
async fn ask_anybody<T, F>(call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    let asked = async {
        loop {
            match timeout(TRY_WITHIN, call()).await {
                Err(_) => {}
                Ok(Err(error)) if was_not_sent(&error) || is_unavailable(&error) => sleep(ASK_AGAIN_AFTER).await,
                Ok(answer) => return answer.map_err(StoreError::from),
            }
        }
    };
    timeout(CALL_DEADLINE, asked).await.map_err(|_| late())?
}

/// Whether a call met nobody who could do it: these errors are those of connecting, which come before a byte of it is sent, and
/// that of a member without a leader, which looks for one before it begins.
fn was_not_sent(error: &etcd_client::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    if status.message() == NO_LEADER {
        return true;
    }
    let mut causes = std::iter::successors(Some(status as &dyn std::error::Error), |error| error.source());
    let kind = causes.find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    matches!(kind, Some(AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable))
}

/// Whether a member, or the way there, could not do a call for now: it may have been done.
fn is_unavailable(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if i32::from(status.code()) == UNAVAILABLE)
}

fn late() -> StoreError {
    StoreError::Unavailable(format!("etcd did not answer within {} s", CALL_DEADLINE.as_secs()))
}

/// What cannot be told apart is unavailability, which claims nothing.
impl From<etcd_client::Error> for StoreError {
    fn from(error: etcd_client::Error) -> Self {
        if matches!(&error, etcd_client::Error::LeaseKeepAliveError(why) if why.contains("not found")) {
            return Self::LeaseLapsed;
        }
        if let etcd_client::Error::GRpcStatus(status) = &error {
            let said = status.message();
            if said.contains("requested lease not found") {
                return Self::LeaseLapsed;
            }
            if said.contains("database space exceeded") {
                return Self::Full(said.to_owned());
            }
        }
        Self::Unavailable(error.to_string())
    }
}

fn number(lease: &LeaseId) -> Result<i64, StoreError> {
    lease.0.parse().map_err(|_| StoreError::LeaseLapsed)
}

/// The first key behind all that begin with a prefix. Keys are ASCII, so the last byte can always grow.
fn end_of(prefix: String) -> Vec<u8> {
    let mut end = prefix.into_bytes();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// etcd's revisions are signed and never negative.
fn revision(number: i64) -> Revision {
    number.try_into().unwrap_or(0)
}

fn signed(revision: Revision) -> i64 {
    revision.try_into().unwrap_or(i64::MAX)
}
