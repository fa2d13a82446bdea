//! Taking the spare connections of nodes that cannot be dialled, and letting them know where.

use std::net::SocketAddr;
use std::sync::Arc;

use landfast_core::record::{ReversePoint, keys};
use landfast_core::{ErrorCode, Problem};
use landfast_net::credential::Credential;
use landfast_net::reverse::Spares;
use landfast_net::role::{CancellationToken, listen};
use tokio::task::JoinHandle;

use crate::registration::Registration;
use crate::store::Store;

/// Where spares are taken.
#[derive(Clone, Debug)]
pub struct Point {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The address as nodes reach it, if it is another.
    pub advertise: Option<String>,
}

/// Listens, tells the nodes, and returns a credential that reaches them, with the task that ends with `stop`.
///
/// # Errors
///
/// The address is taken or not ours, or others could listen there without certificates.
pub fn open(
    point: Point,
    credential: Credential,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> Result<(Credential, JoinHandle<()>), Problem> {
    credential.check_listen(point.listen)?;
    if point.advertise.is_none() && point.listen.ip().is_unspecified() {
        let what =
            format!("relay_listen is {}, which no node can dial; say in relay_advertise where it is.", point.listen);
        return Err(Problem::new(ErrorCode::ConfigInvalid, what));
    }
    let listener = listen(point.listen, false)?;
    let address = listener.local_addr().map_err(|_| ErrorCode::Internal)?;
    let record = ReversePoint { address: point.advertise.unwrap_or_else(|| address.to_string()) };
    let registration = Registration::pending(keys::REVERSE, record);
    tracing::info!(%address, "spare connections of nodes are taken");
    let spares = Spares::default();
    let reaching = credential.clone().with_spares(spares.clone());
    let task = tokio::spawn(async move {
        tokio::join!(spares.accept(listener, credential, stop.clone()), registration.keep(store, stop.clone()));
    });
    Ok((reaching, task))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use landfast_net::credential::{RELAYED, Role};
    use landfast_net::reverse::{NodeSecret, address, offer};
    use landfast_net::secret::CellKey;

    use super::*;
    use crate::authority;
    use crate::store::embedded::EmbeddedStore;
    use crate::{records, store};

    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    #[tokio::test]
    async fn only_nodes_of_the_cell_may_bring_connections() {
        let dir = tempfile::tempdir().unwrap();
        let key = CellKey::generate();
        let member = |ca: &str, role: Role| {
            let (ca, out) = (dir.path().join(ca), dir.path().join(format!("{ca}-{role:?}")));
            if !ca.exists() {
                authority::init(&ca).unwrap();
            }
            authority::issue(&ca, &[role], WEEK, &out).unwrap();
            Credential::load(key.clone(), &out).unwrap()
        };
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&dir.path().join("cell.db")).unwrap());
        let point = Point { listen: ([127, 0, 0, 1], 0).into(), advertise: None };
        let stop = CancellationToken::new();
        let gateway = member("ours", Role::Gateway);
        let (reaching, task) = open(point, gateway, Arc::clone(&store), stop.clone()).unwrap();
        let listed = found(&*store).await;
        let secret = NodeSecret::generate();
        let offered = async |credential: Credential| {
            let socket = credential.connect_turned(&listed.address, RELAYED).await?;
            offer(socket, &secret, credential.key()).await
        };
        assert!(offered(member("theirs", Role::Node)).await.is_err(), "of another authority");
        assert!(offered(member("ours", Role::Api)).await.is_err(), "no node");
        assert!(offered(Credential::plain(key.clone())).await.is_err(), "in the clear");
        let node = offered(member("ours", Role::Node)).await.unwrap();
        reaching.connect(&address(&secret), Role::Node).await.unwrap();
        stop.cancel();
        task.await.unwrap();
        assert!(store.list(keys::REVERSE).await.unwrap().entries.is_empty(), "it is taken back");
        drop(node);
    }

    async fn found(store: &dyn Store) -> ReversePoint {
        let mut watch = store.watch(keys::REVERSE, None);
        loop {
            let changes = match watch.next().await.unwrap() {
                store::WatchEvent::Changes(changes) => changes,
                store::WatchEvent::Back => continue,
                store::WatchEvent::Snapshot(_) | store::WatchEvent::Resync => {
                    let listing = store.list(keys::REVERSE).await.unwrap();
                    match listing.entries.first() {
                        Some(entry) => return records::decode(&entry.key, &entry.value).unwrap(),
                        None => continue,
                    }
                }
            };
            if let Some(change) = changes.first() {
                return records::decode(&change.key, change.value.as_ref().unwrap()).unwrap();
            }
        }
    }
}
