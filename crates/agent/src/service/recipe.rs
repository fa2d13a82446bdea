//! What a keeper runs: how it is started, and how it is known to be ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfast_core::record::{Ready, Service};
use landfast_core::supervise::Policy;
use landfast_core::{InstanceId, Problem, ServiceName};
use tokio::task::spawn_blocking;

use super::owner::is_ours;
use super::place::Place;
use super::probe::is_ready;
use crate::browser::{Chromium, DevTools};
use crate::config::Config;
use crate::spawn::Plan;

/// What is kept running.
#[derive(Clone, Debug)]
pub(crate) enum Recipe {
    /// A service of the instance's spec.
    Spec(Arc<OfSpec>),
    /// The browser, which chooses its place at each start.
    Browser(Arc<Chromium>),
}

/// A service of the instance's spec.
#[derive(Debug)]
pub(crate) struct OfSpec {
    plan: Plan,
    place: Place,
    ready: Ready,
}

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is not ready.
    NotReady,
    /// It is, and this is where a browser is reached.
    Ready(Option<Arc<DevTools>>),
}

impl Recipe {
    /// A service of the spec and how it is kept; `None` if it has no command.
    ///
    /// # Errors
    ///
    /// [`landfast_core::ErrorCode::RequestInvalid`] if its command is none.
    pub(super) fn of_spec(
        name: ServiceName,
        service: &Service,
        place: Place,
        config: &Config,
    ) -> Result<Option<(Self, Policy)>, Problem> {
        let Some(plan) = Plan::of_service(service, environment(name, &place, config))? else { return Ok(None) };
        let policy = Policy::new(service.restart, Duration::from_secs(service.ready.within));
        let recipe = Self::Spec(Arc::new(OfSpec { plan, place, ready: service.ready.clone() }));
        Ok(Some((recipe, policy)))
    }

    /// The command as it is shown before anything was started.
    pub(super) fn argv(&self) -> Vec<String> {
        match self {
            Self::Spec(service) => service.plan.argv.clone(),
            Self::Browser(_) => vec![Chromium::PROGRAM.to_owned()],
        }
    }

    /// The command, and the number of the wish for a start that it fulfils.
    pub(super) fn plan(&self, config: &Config) -> (Plan, u64) {
        match self {
            Self::Spec(service) => (service.plan.clone(), 0),
            Self::Browser(chromium) => chromium.plan(config),
        }
    }

    /// Takes away what an earlier start has left and the next must not find. Nothing of the earlier one lives.
    pub(super) fn clear(&self) {
        match self {
            Self::Spec(service) => service.place.clear(),
            Self::Browser(chromium) => chromium.clear(),
        }
    }

    /// Looks once whether the present start, which leads this session, is ready.
    pub(super) async fn probe(self, session: i32, instance: InstanceId) -> Found {
        match self {
            Self::Spec(service) => {
                let is_up = is_ready(&service.place, service.ready.path.as_deref()).await
                    && is_own(service.place.clone(), session, instance).await;
                if is_up { Found::Ready(None) } else { Found::NotReady }
            }
            Self::Browser(chromium) => match chromium.probe().await {
                Some(devtools) if is_own(Place::Port(devtools.port), session, instance).await => {
                    Found::Ready(Some(Arc::new(devtools)))
                }
                Some(_) | None => Found::NotReady,
            },
        }
    }
}

/// Waits for a sign of life of a start that is up. A service of the spec is asked for none: nobody but its program knows
/// what it would be.
pub(super) async fn look(devtools: Option<Arc<DevTools>>) {
    if let Some(devtools) = devtools {
        Chromium::look(&devtools).await;
    }
}

/// Whether what listens at a place is the service's own, as far as can be known. Asked once per start: it reads the process
/// table, aside.
async fn is_own(place: Place, session: i32, instance: InstanceId) -> bool {
    match place {
        Place::Port(port) => spawn_blocking(move || is_ours(port, session, instance)).await.unwrap_or(true),
        Place::Socket(_) => true,
    }
}

/// What a service finds in its environment, whatever its spec says.
fn environment(name: ServiceName, place: &Place, config: &Config) -> BTreeMap<String, String> {
    let listen = match place {
        Place::Port(port) => ("PORT", port.to_string()),
        Place::Socket(path) => ("LANDFAST_SOCKET", path.display().to_string()),
    };
    let ours = [("LANDFAST_INSTANCE", config.instance.to_string()), ("LANDFAST_SERVICE", name.to_string()), listen];
    ours.map(|(name, value)| (name.to_owned(), value)).into()
}
