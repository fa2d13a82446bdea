//! The services of the instance, by name and by port.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfast_core::record::Service as Spec;
use landfast_core::{ErrorCode, Problem, ServiceName};

use super::keeper::{Handle, Keeper};
use super::place::Place;
use crate::config::Config;
use crate::events::Events;
use crate::table::Processes;

/// The services that the instance's spec names.
#[derive(Debug, Default)]
pub(crate) struct Services {
    by_name: BTreeMap<ServiceName, Service>,
}

/// A service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) place: Place,
    /// Whether a `503` of it is believed to say that a request was not run.
    pub(crate) retry_signals: bool,
    /// Its task; without a command it has none, and something else starts what listens there.
    pub(crate) handle: Option<Handle>,
}

impl Services {
    /// The services of a spec, and the tasks that keep them. One without a place is somewhere else and is left out.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`], naming the service.
    pub(crate) fn new(
        config: &Arc<Config>,
        processes: &Arc<Processes>,
        events: &Arc<Events>,
    ) -> Result<(Self, Vec<Keeper>), Problem> {
        let (mut services, mut keepers) = (Self::default(), Vec::new());
        for (&name, spec) in &config.services {
            let Some(place) = place(spec, config) else { continue };
            let kept = Keeper::new(name, spec, place.clone(), (config, processes, events));
            let kept = kept.map_err(|problem| {
                Problem::new(ErrorCode::ConfigInvalid, format!("services.{name}: {}", problem.detail))
            })?;
            let handle = kept.map(|(keeper, handle)| {
                keepers.push(keeper);
                handle
            });
            services.by_name.insert(name, Service { place, retry_signals: spec.retry_signals, handle });
        }
        Ok((services, keepers))
    }

    /// A service by its name.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ServiceUnknown`].
    pub(crate) fn get(&self, name: ServiceName) -> Result<&Service, Problem> {
        self.by_name.get(&name).ok_or_else(|| ErrorCode::ServiceUnknown.into())
    }

    /// The task of a service, by the text of its name.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ServiceUnknown`], also for one that the agent does not keep.
    pub(crate) fn kept(&self, name: &str) -> Result<&Handle, Problem> {
        let service = name.parse().ok().and_then(|name| self.by_name.get(&name));
        service.and_then(|service| service.handle.as_ref()).ok_or_else(|| ErrorCode::ServiceUnknown.into())
    }

    /// The service that listens on a port.
    pub(crate) fn on_port(&self, port: u16) -> Option<&Service> {
        self.by_name.values().find(|service| service.place == Place::Port(port))
    }

    /// All services that the agent keeps, by name.
    pub(crate) fn all_kept(&self) -> impl Iterator<Item = (ServiceName, &Handle)> {
        self.by_name.iter().filter_map(|(&name, service)| Some((name, service.handle.as_ref()?)))
    }

    /// Ends all of them. Each is asked, and killed if it does not end in time.
    pub(crate) async fn stop(&self) {
        futures_util::future::join_all(self.all_kept().map(|(_, handle)| handle.stop())).await;
    }
}

fn place(spec: &Spec, config: &Config) -> Option<Place> {
    match (spec.port, &spec.socket) {
        (Some(port), _) => Some(Place::Port(port)),
        (None, Some(socket)) => Some(Place::Socket(config.home.join(socket))),
        (None, None) => None,
    }
}
