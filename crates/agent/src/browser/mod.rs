//! The browser of an instance: kept as a service, and reached by nobody but through the agent.
//!
//! A program that drives a browser holds much of it in its own memory, and does not notice when it talks to nobody, or to
//! another browser than before. So the agent stands at every way in: it knows which start of the browser a client is
//! connected to (`core::cdp`), and tells it when that start is over.

pub(crate) mod cdp;
mod chromium;
pub(crate) mod client;
mod devtools;
mod flags;
pub(crate) mod hands;
pub(crate) mod keys;
pub(crate) mod monitor;
pub(crate) mod pages;
pub(crate) mod picture;
mod public;
mod sandbox;
pub(crate) mod screencast;
mod spoken;

use std::sync::Arc;
use std::time::Duration;

use landfast_core::cdp::{News, START_BUDGET, Why};
use landfast_core::supervise::State;
use landfast_core::{ErrorCode, Problem};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

pub(crate) use chromium::Chromium;
pub(crate) use devtools::DevTools;
pub(crate) use public::Public;
use sandbox::Sandbox;

use crate::exit::Exit;
use crate::service::{Handle, Status};

/// The browser, to those who ask something of it.
#[derive(Debug)]
pub(crate) struct Browser {
    chromium: Arc<Chromium>,
    handle: Handle,
}

/// The browser in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Description {
    state: &'static str,
    start: u64,
    since: u64,
    pid: Option<i32>,
    version: Option<String>,
    flags: Vec<String>,
    sandbox: Sandbox,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<Exit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Browser {
    pub(crate) const fn new(chromium: Arc<Chromium>, handle: Handle) -> Self {
        Self { chromium, handle }
    }

    /// Its task among the services'.
    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// It as JSON.
    pub(crate) fn describe(&self) -> Description {
        let status = self.handle.status();
        Description {
            state: status.state.as_str(),
            start: status.start,
            since: status.since,
            pid: status.is_living.then_some(status.process.pid),
            version: status.devtools.map(|devtools| devtools.version.clone()),
            flags: self.chromium.flags(),
            sandbox: self.chromium.sandbox().clone(),
            exit: status.exit,
            error: status.error,
        }
    }

    /// Has it started anew, and waits until it is up. Who asks while a start is under way waits for that one.
    ///
    /// Cancel safe in that it is started anew even if nobody waits.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::BrowserDown`] if it is given up, [`ErrorCode::InstanceStarting`] if it is not up in time.
    pub(crate) async fn restart(&self) -> Result<(), Problem> {
        let status = self.handle.status();
        let is_under_way = self.chromium.edition() > status.edition || status.state == State::Starting;
        if is_under_way {
            return self.wait(self.chromium.edition()).await.map(drop);
        }
        let edition = self.chromium.wish_anew();
        self.start_anew(edition).await
    }

    /// Gives it other flags, has it started anew, and waits until it is up.
    ///
    /// # Errors
    ///
    /// As [`Self::restart`], and [`ErrorCode::RequestInvalid`] for a flag that cannot be chosen.
    pub(crate) async fn set_flags(&self, flags: Vec<String>) -> Result<(), Problem> {
        let edition = self.chromium.wish_flags(flags)?;
        self.start_anew(edition).await
    }

    /// Where it is reached, once it is up.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Self::restart`].
    pub(crate) async fn up(&self) -> Result<Arc<DevTools>, Problem> {
        self.wait(0).await
    }

    async fn start_anew(&self, edition: u64) -> Result<(), Problem> {
        self.handle.restart()?;
        self.wait(edition).await.map(drop)
    }

    /// Waits until a start is up that fulfils this wish or a newer one.
    async fn wait(&self, edition: u64) -> Result<Arc<DevTools>, Problem> {
        let (until, mut status) = (Instant::now() + START_BUDGET, self.handle.watch());
        loop {
            {
                let present = status.borrow_and_update();
                match (present.state, &present.devtools) {
                    (State::Up, Some(devtools)) if present.edition >= edition => return Ok(devtools.clone()),
                    (State::Down | State::Failed | State::GaveUp, _) if present.edition >= edition => {
                        return Err(down(&present));
                    }
                    (State::Up | State::Down | State::Failed | State::GaveUp | State::Starting | State::Backoff, _) => {
                    }
                }
            }
            match timeout_at(until, status.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Problem::new(ErrorCode::BrowserDown, "The instance is ending.")),
                Err(_) => return Err(late(START_BUDGET)),
            }
        }
    }
}

/// How the browser is, as its connections want to know it.
pub(crate) fn news(status: &Status) -> News {
    let start = status.start;
    match (status.state, &status.devtools) {
        (State::Up, Some(devtools)) => News::Up { start, url: devtools.url() },
        (State::Starting | State::Up, _) => News::Starting { start },
        (State::Backoff, _) => News::Down { start, why: Why::Returns },
        (State::Down, _) => News::Down { start, why: Why::Stopped },
        (State::Failed | State::GaveUp, _) => News::Down { start, why: Why::GaveUp },
    }
}

/// What is said to who has waited for so long.
pub(crate) fn late(waited: Duration) -> Problem {
    let detail = format!("The browser was not up within {} seconds.", waited.as_secs_f64().round());
    Problem::new(ErrorCode::InstanceStarting, detail)
}

/// Why there is no browser, as far as a client may know.
pub(crate) fn down(status: &Status) -> Problem {
    let cause = match (&status.error, status.exit) {
        (Some(error), _) => error.clone(),
        (None, Some(Exit::Code(code))) => format!("Its last start ended with status {code}."),
        (None, Some(Exit::Signal(signal))) => format!("Its last start was killed by signal {signal}."),
        (None, None) => String::new(),
    };
    let what = match status.state {
        State::GaveUp => "The browser has failed too often.",
        State::Down | State::Failed | State::Up | State::Starting | State::Backoff => "The browser does not run.",
    };
    Problem::new(ErrorCode::BrowserDown, format!("{what} {cause}").trim_end())
}
