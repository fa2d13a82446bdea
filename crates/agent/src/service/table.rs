//! The services of the instance, by name and by port.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfast_core::record::Service as Spec;
use landfast_core::supervise::State;
use landfast_core::{ErrorCode, Problem, ServiceName};

use super::keeper::{Handle, Keeper};
use super::place::Place;
use super::recipe::Recipe;
use crate::browser::{Browser, Chromium};
use crate::config::Config;
use crate::events::Events;
use crate::table::Processes;

/// The services that the instance's spec names, and its browser.
#[derive(Debug, Default)]
pub(crate) struct Services {
    by_name: BTreeMap<ServiceName, Service>,
    browser: Option<(ServiceName, Arc<Browser>)>,
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
        let mut keep = |name, recipe, policy| {
            let (keeper, handle) = Keeper::new(name, recipe, policy, (config, processes, events));
            keepers.push(keeper);
            handle
        };
        for (&name, spec) in &config.services {
            let Some(place) = place(spec, config) else { continue };
            let recipe = Recipe::of_spec(name, spec, place.clone(), config);
            let recipe = recipe.map_err(|problem| invalid(&format!("services.{name}"), &problem))?;
            let handle = recipe.map(|(recipe, policy)| keep(name, recipe, policy));
            services.by_name.insert(name, Service { place, retry_signals: spec.retry_signals, handle });
        }
        if let Some(spec) = &config.browser {
            let name = Chromium::name();
            if services.by_name.contains_key(&name) {
                let problem = Problem::new(ErrorCode::ConfigInvalid, "this is the browser's own name");
                return Err(invalid(&format!("services.{name}"), &problem));
            }
            let chromium = Chromium::new(spec, config).map_err(|problem| invalid("browser", &problem))?;
            let handle = keep(name, Recipe::Browser(chromium.clone()), Chromium::policy(spec));
            services.browser = Some((name, Arc::new(Browser::new(chromium, handle))));
        }
        Ok((services, keepers))
    }

    /// The browser.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ServiceUnknown`] if the instance has none.
    pub(crate) fn browser(&self) -> Result<&Arc<Browser>, Problem> {
        let browser = self.browser.as_ref().map(|(_, browser)| browser);
        browser.ok_or_else(|| Problem::new(ErrorCode::ServiceUnknown, "The instance has no browser."))
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
        let found = self.all_kept().find(|(known, _)| known.as_str() == name);
        found.map(|(_, handle)| handle).ok_or_else(|| ErrorCode::ServiceUnknown.into())
    }

    /// Refuses a port that is the browser's own: past the agent its clients would not be told when it ends.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::AuthForbidden`].
    pub(crate) fn check_port(&self, port: u16) -> Result<(), Problem> {
        let status = self.browser.as_ref().map(|(_, browser)| browser.handle().status());
        let devtools = status.filter(|status| status.state == State::Up).and_then(|status| status.devtools);
        if devtools.is_some_and(|devtools| devtools.port == port) {
            let detail = format!("Port {port} is the browser's; it is reached by the paths cdp, devtools and json.");
            return Err(Problem::new(ErrorCode::AuthForbidden, detail));
        }
        Ok(())
    }

    /// The service that listens on a port.
    pub(crate) fn on_port(&self, port: u16) -> Option<&Service> {
        self.by_name.values().find(|service| service.place == Place::Port(port))
    }

    /// All services that the agent keeps, by name.
    pub(crate) fn all_kept(&self) -> impl Iterator<Item = (ServiceName, &Handle)> {
        let browser = self.browser.iter().map(|(name, browser)| (*name, browser.handle()));
        self.by_name.iter().filter_map(|(&name, service)| Some((name, service.handle.as_ref()?))).chain(browser)
    }

    /// Ends all of them. Each is asked, and killed if it does not end in time.
    pub(crate) async fn stop(&self) {
        futures_util::future::join_all(self.all_kept().map(|(_, handle)| handle.stop())).await;
    }
}

fn invalid(field: &str, problem: &Problem) -> Problem {
    Problem::new(ErrorCode::ConfigInvalid, format!("{field}: {}", problem.detail))
}

fn place(spec: &Spec, config: &Config) -> Option<Place> {
    match (spec.port, &spec.socket) {
        (Some(port), _) => Some(Place::Port(port)),
        (None, Some(socket)) => Some(Place::Socket(config.home.join(socket))),
        (None, None) => None,
    }
}
