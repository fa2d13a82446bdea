//! Somebody else's servers as an instance: nothing runs them but the test, and the gateway leads to their addresses.

use std::net::SocketAddr;
use std::path::Path;

use landfast_core::InstanceId;
use landfast_core::record::{Desired, External, Generation, Instance, InstanceSpec, Kind, Phase, Service};
use landfast_registry::cell::Cell;
use landfast_registry::records;

/// Writes an external instance with these services into the store of the cell in `dir`.
///
/// It goes past the API, so that what is tested or measured is the gateway and nothing else.
///
/// # Panics
///
/// The store does not take it.
pub async fn create(dir: &Path, services: &[(&str, SocketAddr)]) -> InstanceId {
    let store = Cell::open(dir).expect("a cell").store().expect("its store");
    let instance = record(services);
    records::create_instance(&*store, &instance).await.expect("the store takes a record");
    instance.id
}

/// The record of a new external instance with these services.
///
/// # Panics
///
/// A name is none.
pub fn record(services: &[(&str, SocketAddr)]) -> Instance {
    let services = services.iter().map(|(name, address)| {
        let name = name.parse().expect("a service's name");
        (name, Service { address: Some(address.to_string()), ..Service::default() })
    });
    let spec =
        InstanceSpec { services: services.collect(), external: Some(External::default()), ..InstanceSpec::default() };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    let created_at = now.as_millis() as u64;
    Instance {
        id: InstanceId::new(created_at, rand::random()),
        kind: Kind::Sandbox,
        spec,
        desired: Desired::Running,
        phase: Phase::Running,
        generation: Generation(1),
        node: None,
        host: None,
        address: None,
        moving: None,
        reason: None,
        labels: Default::default(),
        created_at,
        ended_at: None,
    }
}
