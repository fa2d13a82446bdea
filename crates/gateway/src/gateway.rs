//! What the parts of one gateway share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfast_core::route::Route;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::credential::Credential;
use landfast_net::relay::{self, Target};
use landfast_net::socket::Socket;

use crate::api::Apis;
use crate::auth::Auth;
use crate::config::Config;
use crate::counters::Counters;
use crate::netcheck::Registry;
use crate::routes::Routes;
use crate::stop::Drain;
use crate::trace::Traces;
use crate::upstream::Pool;
use crate::wake::Waker;

/// How long a node may take to answer a dial: several round trips around the world, or one lost packet and its repeat.
const DIAL_WITHIN: Duration = Duration::from_secs(5);

/// What all workers of a gateway share.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// What the operator said.
    pub(crate) config: Config,
    /// What relays accept.
    pub(crate) credential: Credential,
    /// The registry, for who looks whether it answers.
    pub(crate) registry: Registry,
    /// Where instances are.
    pub(crate) routes: Routes,
    /// Who may reach them.
    pub(crate) auth: Auth,
    /// Where the control plane is.
    pub(crate) apis: Apis,
    /// When to end.
    pub(crate) drain: Drain,
    /// The instances that are being woken.
    pub(crate) waker: Waker,
    /// What is counted elsewhere than where requests are served.
    pub(crate) counters: Counters,
    /// Where spans go, if they go anywhere.
    pub(crate) traces: Option<Traces>,
    /// What the workers count, and what they keep.
    pub(crate) workers: Mutex<Vec<(Arc<Counters>, Pool)>>,
}

/// What one worker's connections share.
#[derive(Debug)]
pub(crate) struct Worker {
    /// What all workers share.
    pub(crate) gateway: Arc<Gateway>,
    /// This worker's idle upstream connections.
    pub(crate) pool: Pool,
    /// What is counted where requests are served.
    pub(crate) counters: Arc<Counters>,
}

impl Worker {
    /// A worker that has served nobody yet.
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        let (pool, counters) = (Pool::default(), Arc::default());
        lock(&gateway.workers).push((Arc::clone(&counters), pool.clone()));
        Self { gateway, pool, counters }
    }
}

impl Gateway {
    /// What the workers count and keep, as far as they have begun.
    pub(crate) fn workers(&self) -> Vec<(Arc<Counters>, Pool)> {
        lock(&self.workers).clone()
    }

    /// Whether the registry has been read once.
    pub(crate) fn is_loaded(&self) -> bool {
        self.routes.is_loaded() && self.auth.is_loaded() && self.apis.is_loaded()
    }

    /// Has an instance woken, once for any number of those who wait; what comes of it is read from the routes.
    pub(crate) fn wake(&self, id: InstanceId) {
        self.waker.wake(id);
    }

    /// Dials a place in an instance. What the node says about its routes is passed on to those who keep them.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The refusal's code; nothing was started.
    pub(crate) async fn dial(&self, route: &Route, target: Target) -> Result<Socket, ErrorCode> {
        let address = route.address.as_deref().ok_or(ErrorCode::NodeUnreachable)?;
        let toward =
            relay::Route { instance: route.instance, generation: route.generation, address: address.to_owned() };
        let error = match relay::dial(&toward, target, &self.credential, DIAL_WITHIN).await {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        tracing::debug!(instance = %route.instance, generation = %route.generation, %error, "dial");
        let code = error.code();
        if matches!(code, ErrorCode::NodeNotHere | ErrorCode::NodeStaleGeneration) {
            // What comes of it is read from the routes.
            let _ = self.routes.refused(route.instance, route.generation).await;
        }
        Err(code)
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // An entry is pushed or it is not.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
