//! A node that nobody can dial: it dials all who would dial it, and waits there to be taken.
//!
//! Who they are stands in the registry. What is taken is a relay like any other from its CONNECT on; how many connections
//! wait is decided by [`core::reverse`](landfast_core::reverse).

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use landfast_core::record::{ReversePoint, keys};
use landfast_core::reverse::Spares;
use landfast_net::credential::RELAYED;
use landfast_net::reverse::{NodeSecret, offer};
use landfast_net::role::CancellationToken;
use landfast_net::socket::Socket;
use landfast_net::{clock, random};
use landfast_registry::records;
use landfast_registry::store::{Store, WatchEvent};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info};

use crate::relay::Relay;

/// How long a dial may take, with TLS and the answer to its head.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// Between tries to watch a store that does not answer, for errors that come at once.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

/// What a node brings to each point.
pub(crate) struct Outward {
    pub(crate) relay: Arc<Relay>,
    pub(crate) secret: NodeSecret,
    pub(crate) stop: CancellationToken,
}

/// One point at which connections wait.
struct Point {
    outward: Arc<Outward>,
    record: ReversePoint,
    /// Whether the registry still names it. A listing may be short because the registry has just been restarted: whoever
    /// takes connections is not left for that.
    is_listed: Arc<AtomicBool>,
}

/// What became of a connection that waited.
enum Waited {
    /// Somebody has begun to say something.
    Taken(Socket),
    Lost,
}

/// Holds connections ready at all points that the registry names, until told to stop.
pub(crate) async fn run(outward: Arc<Outward>, store: Arc<dyn Store>) {
    let mut records = HashMap::new();
    let mut points: HashMap<String, Arc<AtomicBool>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut watch = store.watch(keys::REVERSE, None);
    loop {
        tokio::select! {
            () = outward.stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Ok(address) = ended {
                    points.remove(&address);
                }
            }
            event = watch.next() => match event {
                Ok(event) => apply(&mut records, event),
                Err(error) => {
                    debug!(%error, "the registry does not say where connections are wanted; going on with what is known");
                    sleep(WATCH_AGAIN).await;
                    continue;
                }
            },
        }
        let listed: HashSet<&str> = records.values().map(|point: &ReversePoint| point.address.as_str()).collect();
        points.iter().for_each(|(address, is)| is.store(listed.contains(address.as_str()), Ordering::Relaxed));
        for record in records.values() {
            if !points.contains_key(&record.address) {
                let is_listed = Arc::new(AtomicBool::new(true));
                points.insert(record.address.clone(), Arc::clone(&is_listed));
                let point = Point { outward: Arc::clone(&outward), record: record.clone(), is_listed };
                tasks.spawn(point.hold());
            }
        }
    }
    tasks.shutdown().await;
}

fn apply(records: &mut HashMap<String, ReversePoint>, event: WatchEvent) {
    match event {
        WatchEvent::Snapshot(listing) => {
            records.clear();
            listing.entries.iter().for_each(|entry| set(records, &entry.key, Some(&entry.value)));
        }
        WatchEvent::Changes(changes) => {
            changes.iter().for_each(|change| set(records, &change.key, change.value.as_deref()));
        }
        WatchEvent::Resync | WatchEvent::Back => {}
    }
}

fn set(records: &mut HashMap<String, ReversePoint>, key: &str, value: Option<&[u8]>) {
    match value.map(|value| records::decode(key, value)) {
        Some(Ok(point)) => drop(records.insert(key.to_owned(), point)),
        Some(Err(error)) => error!(%error, "a record is passed over"),
        None => drop(records.remove(key)),
    }
}

impl Point {
    /// Holds connections ready until told to stop, or until it is gone from the registry and cannot be reached either.
    /// Returns its address.
    async fn hold(self) -> String {
        info!(address = %self.record.address, "connections wait there to be taken");
        let mut spares = Spares::new(clock::now());
        let (mut dials, mut waiting, mut conversations) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        loop {
            while spares.poll(clock::now()) {
                dials.spawn(self.dial());
            }
            let now = clock::now();
            tokio::select! {
                () = self.outward.stop.cancelled() => break,
                Some(dialled) = dials.join_next() => match dialled.map_err(io::Error::other).flatten() {
                    Ok(socket) => {
                        spares.handle_waiting();
                        waiting.spawn(wait(socket));
                    }
                    Err(error) => {
                        debug!(%error, address = %self.record.address, "no connection waits there");
                        spares.handle_failed(random::bits(), now);
                        if !self.is_listed.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                },
                Some(waited) = waiting.join_next() => match waited {
                    Ok(Waited::Taken(socket)) => {
                        spares.handle_taken(now);
                        let outward = Arc::clone(&self.outward);
                        conversations.spawn(async move {
                            outward.stop.run_until_cancelled(outward.relay.converse(socket, None)).await
                        });
                    }
                    Ok(Waited::Lost) | Err(_) => spares.handle_lost(random::bits(), now),
                },
                Some(_) = conversations.join_next() => {}
                () = clock::sleep_until(spares.next_deadline(now)) => {}
            }
        }
        // What was taken goes on without the point's record, until this daemon stops.
        conversations.detach_all();
        self.record.address
    }

    fn dial(&self) -> impl Future<Output = io::Result<Socket>> + Send + 'static {
        let (outward, address) = (Arc::clone(&self.outward), self.record.address.clone());
        async move {
            let credential = &outward.relay.credential;
            let offered = timeout(DIAL_WITHIN, async {
                let socket = credential.connect_turned(&address, RELAYED).await?;
                offer(socket, &outward.secret, credential.key()).await
            });
            offered.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
    }
}

/// Waits until somebody says something.
async fn wait(mut socket: Socket) -> Waited {
    let mut first = vec![0; 512];
    match socket.read(&mut first).await {
        Ok(0) | Err(_) => Waited::Lost,
        Ok(n) => {
            first.truncate(n);
            Waited::Taken(socket.with_ahead(first))
        }
    }
}
