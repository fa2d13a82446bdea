//! Finding the instance for one request: look, park while it is between places, go on after a refusal.

use std::sync::Arc;
use std::time::Duration;

use landfast_core::route::{Lookup, Route};
use landfast_core::{ErrorCode, InstanceId, Problem, Retry};
use landfast_net::random;
use tokio::time::{Instant, sleep, timeout_at};

use crate::attempts::{Attempts, Next};
use crate::gateway::Gateway;
use crate::routes::{Entry, Routes};

/// How often a wake is asked for again while nothing came of it.
pub(crate) const WAKE_EVERY: Duration = Duration::from_secs(1);

/// The search for one request's instance.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    gateway: &'a Gateway,
    entry: Arc<Entry>,
    attempts: Attempts,
    deadline: Instant,
    /// Whether a sleeping instance is to be woken.
    wakes: bool,
}

impl<'a> Search<'a> {
    /// Begins a search that ends `within` this time, if something is known of the instance. With `wakes`, an instance
    /// that sleeps is woken.
    pub(crate) fn known(gateway: &'a Gateway, id: InstanceId, within: Duration, wakes: bool) -> Option<Self> {
        let entry = gateway.routes.known(id)?;
        Some(Self { gateway, entry, attempts: Attempts::default(), deadline: Instant::now() + within, wakes })
    }

    /// The same, after the registry was asked if need be.
    ///
    /// # Errors
    ///
    /// `registry.unavailable` if nobody can tell anything.
    pub(crate) async fn new(
        gateway: &'a Gateway,
        id: InstanceId,
        within: Duration,
        wakes: bool,
    ) -> Result<Self, Problem> {
        let deadline = Instant::now() + within;
        let entry = look(&gateway.routes, id, deadline).await?;
        Ok(Self { gateway, entry, attempts: Attempts::default(), deadline, wakes })
    }

    /// The route to try next, if there is one now.
    pub(crate) fn route_now(&self) -> Option<Route> {
        match &*self.entry.state() {
            Lookup::Known(route) => route.ready().is_ok().then(|| route.clone()),
            Lookup::Ended(_) | Lookup::Unknown | Lookup::Unavailable | Lookup::Asking => None,
        }
    }

    /// The instance, as far as it is known.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The route to try next; waits for one while the instance is between places.
    ///
    /// # Errors
    ///
    /// Why there is none, and will be none before the deadline.
    pub(crate) async fn route(&mut self) -> Result<Route, Problem> {
        let mut news = None;
        loop {
            let why = match &*self.entry.state() {
                Lookup::Known(route) => match route.ready() {
                    Ok(()) => return Ok(route.clone()),
                    Err(_) if route.needs_waking() && !self.wakes => return Err(ErrorCode::InstanceSleeping.into()),
                    Err(code) if code.retry() == Retry::Safe => code,
                    Err(code) => return Err(code.into()),
                },
                Lookup::Ended(code) => return Err((*code).into()),
                Lookup::Unknown => return Err(ErrorCode::InstanceUnknown.into()),
                Lookup::Unavailable => return Err(ErrorCode::RegistryUnavailable.into()),
                Lookup::Asking => {
                    self.look().await?;
                    news = None;
                    continue;
                }
            };
            // Subscribed before the look that counts, so that no news falls in between.
            let Some(heard) = &mut news else {
                news = Some(self.entry.news());
                continue;
            };
            let mut look_at = self.deadline;
            if needs_waking(&self.entry) {
                // A write that failed, or found no room, is asked for again.
                self.gateway.wake(self.entry.id());
                look_at = look_at.min(Instant::now() + WAKE_EVERY);
            }
            let _parked = self.gateway.counters.park();
            if timeout_at(look_at, heard.changed()).await.is_err() && look_at == self.deadline {
                return Err(why.into());
            }
        }
    }

    /// A try was refused or failed before anything was started: waits until the next one is due.
    ///
    /// # Errors
    ///
    /// The refusal, if it was the last.
    pub(crate) async fn refused(&mut self, code: ErrorCode, route: &Route) -> Result<(), Problem> {
        self.look().await?;
        let mut news = self.entry.news();
        let state = self.entry.state();
        let now = match &*state {
            Lookup::Known(route) => Some(route),
            Lookup::Asking | Lookup::Ended(_) | Lookup::Unknown | Lookup::Unavailable => None,
        };
        // Somebody who knows has spoken: the next look tells.
        if now.is_none() {
            return Ok(());
        }
        match self.attempts.handle_refused(code, route, now, random::bits()) {
            Next::End(code) => Err(code.into()),
            Next::Again(wait) if Instant::now() + wait > self.deadline => Err(code.into()),
            Next::Again(wait) => {
                tokio::select! {
                    () = sleep(wait) => {}
                    _ = news.changed(), if !wait.is_zero() => {}
                }
                Ok(())
            }
        }
    }

    async fn look(&mut self) -> Result<(), ErrorCode> {
        self.entry = look(&self.gateway.routes, self.entry.id(), self.deadline).await?;
        Ok(())
    }
}

/// Whether somebody has to wake the instance.
pub(crate) fn needs_waking(entry: &Entry) -> bool {
    matches!(&*entry.state(), Lookup::Known(route) if route.needs_waking())
}

async fn look(routes: &Routes, id: InstanceId, deadline: Instant) -> Result<Arc<Entry>, ErrorCode> {
    timeout_at(deadline, routes.look(id)).await.unwrap_or(Err(ErrorCode::RegistryUnavailable))
}
