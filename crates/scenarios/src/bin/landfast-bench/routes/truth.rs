//! Where each instance's server is, as its record says and has said.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Result, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use landfast_core::InstanceId;
use landfast_core::record::{Generation, Instance, keys};
use landfast_registry::cell::Cell;
use landfast_registry::records;
use landfast_registry::store::{Expect, Revision, Store, Swap};
use landfast_scenarios::external;
use tokio::time::Instant;

/// Records that are written at once: the store takes them to the disk together.
const AT_ONCE: usize = 64;

/// The service's name.
pub(super) const SERVICE: &str = "web";

/// Every instance's place, and the one who changes it.
pub(super) struct Truth {
    store: Arc<dyn Store>,
    servers: Vec<SocketAddr>,
    places: Vec<Mutex<Place>>,
    /// The instance that is changed next.
    next: AtomicUsize,
}

struct Place {
    instance: Instance,
    revision: Revision,
    named: Vec<Named>,
}

/// That a record named a server: for no longer than this.
struct Named {
    server: usize,
    /// Just before it was written.
    from: Instant,
    /// Just after what came next was written.
    until: Option<Instant>,
}

impl Truth {
    /// Writes the instances' records, past the API.
    ///
    /// # Errors
    ///
    /// The store does not take them.
    pub(super) async fn write(dir: &Path, servers: Vec<SocketAddr>, instances: usize) -> Result<Self> {
        let store = Cell::open(dir)?.store()?;
        let write = async |number: usize| {
            let server = number % servers.len();
            let mut instance = external::record(&[(SERVICE, servers[server])]);
            for service in instance.spec.services.values_mut() {
                service.retry_signals = true;
            }
            let from = Instant::now();
            let revision = records::create_instance(&*store, &instance).await?;
            anyhow::Ok(Mutex::new(Place { instance, revision, named: vec![Named { server, from, until: None }] }))
        };
        let places = stream::iter(0..instances).map(write).buffered(AT_ONCE).try_collect().await?;
        Ok(Self { store, servers, places, next: AtomicUsize::new(0) })
    }

    /// The instances' ids, in the order of their numbers.
    pub(super) fn instances(&self) -> Vec<InstanceId> {
        (0..self.places.len()).map(|number| self.place(number).instance.id).collect()
    }

    /// Whether an instance's server is this one, or is about to be. There is no such instance: it is not.
    pub(super) fn is_at(&self, number: usize, server: usize) -> bool {
        number < self.places.len() && self.place(number).named.last().is_some_and(|named| named.server == server)
    }

    /// Whether an instance's record named this server at some moment of that time.
    pub(super) fn has_named(&self, number: usize, server: usize, from: Instant, until: Instant) -> bool {
        let overlaps = |named: &Named| named.from <= until && named.until.is_none_or(|end| end >= from);
        self.place(number).named.iter().any(|named| named.server == server && overlaps(named))
    }

    /// Gives the next instance to the next server. One that is under way is not the next again for ten seconds.
    pub(super) async fn change_next(&self) {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.places.len();
        if let Err(error) = self.change(number).await {
            panic!("instance {number}: {error:#}");
        }
    }

    async fn change(&self, number: usize) -> Result<()> {
        let (instance, revision) = self.begin(number)?;
        let key = keys::instance(instance.id);
        let Swap::Done(revision) =
            self.store.put(&key, Expect::Revision(revision), records::encode(&instance)?, None).await?
        else {
            bail!("somebody else has written its record");
        };
        let mut place = self.place(number);
        place.revision = revision;
        if let [.., before, _] = &mut place.named[..] {
            before.until = Some(Instant::now());
        }
        Ok(())
    }

    /// From now on its server is the next one. Returns the record that says so, and what it is to replace.
    fn begin(&self, number: usize) -> Result<(Instance, Revision)> {
        let mut place = self.place(number);
        let server = place.named.last().map_or(0, |named| (named.server + 1) % self.servers.len());
        place.named.push(Named { server, from: Instant::now(), until: None });
        place.instance.generation = Generation(place.instance.generation.0 + 1);
        for service in place.instance.spec.services.values_mut() {
            service.address = Some(self.servers[server].to_string());
        }
        Ok((place.instance.clone(), place.revision))
    }

    fn place(&self, number: usize) -> MutexGuard<'_, Place> {
        self.places[number].lock().expect("no holder panics")
    }
}
