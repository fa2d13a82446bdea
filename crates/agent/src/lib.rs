//! The process beside the instance: it owns the instance's processes and what they have said, and keeps its services
//! running.
//!
//! Everything between a client and this agent may die and be rebuilt; what must not be lost is here. A process has one
//! task that drains it into a log (`log`), and any number of viewers that read the log at their own pace
//! (`attach`). A viewer's connection is a stream of bytes that a session carries over any number of links
//! (`landfast_net::far`), and so is one to a service (`service`), so nothing here knows about links that were cut.
//!
//! The agent is made for a runtime of one thread. It outlives its node: it needs no inherited descriptor, and the node
//! starts it in a session of its own.

mod activity;
mod apart;
mod api;
mod attach;
mod browser;
mod config;
mod drawn;
mod events;
mod exit;
mod fence;
mod file;
mod files;
mod frames;
mod input;
mod kill;
mod log;
mod process;
mod pty;
mod reaper;
mod record;
mod runner;
mod scan;
mod screen;
mod service;
mod sessions;
mod spawn;
mod table;
mod terminal;
mod upgrade;
mod wake;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landfast_core::record::Generation;
use landfast_core::{ErrorCode, Problem};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use activity::Activity;
pub use apart::EventsApart;
use api::kernel::{Ledger, Watches};
use api::{Door, handoff, network};
pub use config::{Config, Limits, Listen};
use events::Events;
use fence::Fence;
use files::Files;
use service::Services;
use sessions::Sessions;
use table::Processes;

/// How long the last answers may take once everything has ended.
const GOODBYE: Duration = Duration::from_millis(500);

/// How long the last events may take to be stored. The node kills the agent a few seconds after it asked it to end.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// What every part of an agent reaches.
struct Agent {
    config: Arc<Config>,
    fence: Fence,
    activity: Arc<Activity>,
    events: Arc<Events>,
    files: Arc<Files>,
    /// Where gateways reach it without a node.
    address: Option<SocketAddr>,
    processes: Arc<Processes>,
    services: Services,
    sessions: Arc<Sessions>,
    /// What was asked by clients that repeat what they should not.
    ledger: Arc<Ledger>,
    /// The mouse of its browser.
    desk: browser::hands::Desk,
    /// What those who ask for changes of files first and read them then have asked for.
    watches: Watches,
    /// Cancelled when the agent is to end: sessions and connections are cut at once.
    stop: CancellationToken,
    /// Cancelled when everything else has ended.
    ended: CancellationToken,
    tasks: TaskTracker,
}

/// Runs an agent until `stop` is cancelled, or the node shuts it down, then ends what it runs.
///
/// Sessions are cut without a word: why the instance ends is for the registry to say.
///
/// # Errors
///
/// [`ErrorCode::ListenInUse`] if an agent runs there already, [`ErrorCode::ConfigInvalid`] if its directories cannot be
/// used.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Problem> {
    let control = api::listen(&config.run.join("control.sock"))?;
    let unusable =
        |error| Problem::new(ErrorCode::ConfigInvalid, format!("{} cannot be used: {error}.", config.state.display()));
    let events = Events::open(&config.state).map_err(unusable)?;
    let stored = CancellationToken::new();
    let writer = events.writer(stored.clone()).map_err(unusable)?;
    let processes = Processes::load(&config, &events).map(Arc::new).map_err(unusable)?;
    let config = Arc::new(config);
    let (services, keepers) = Services::new(&config, &processes, &events)?;
    let outside = network::listen(&config)?;
    let generation = match &outside {
        Some(_) => config.generation.max(network::last_generation(&config.state)),
        None => config.generation,
    };
    let handoffs = api::listen(&config.run.join("handoff.sock"))?;
    // Last: whoever can connect to it finds everything else there.
    let listener = api::listen(&config.run.join("agent.sock"))?;
    let agent = Arc::new(Agent {
        fence: Fence::new(generation),
        activity: Activity::new(),
        events,
        files: Files::new(&config.home),
        address: outside.as_ref().and_then(|(listener, _)| listener.local_addr().ok()),
        sessions: Sessions::new(config.limits.sessions),
        ledger: Arc::default(),
        desk: Arc::default(),
        watches: Watches::default(),
        processes,
        services,
        stop,
        ended: CancellationToken::new(),
        tasks: TaskTracker::new(),
        config,
    });
    if agent.config.is_alone {
        spawn::raise_descriptor_limit();
        agent.until_stopped(reap(agent.processes.clone()));
        agent.until_stopped(obey_signals(agent.stop.clone())?);
    }
    agent.tasks.spawn(api::serve(agent.clone(), listener, Door::Agent, agent.stop.clone()));
    agent.tasks.spawn(api::serve(agent.clone(), control, Door::Control, agent.ended.clone()));
    agent.until_stopped(handoff::serve(agent.clone(), handoffs));
    let owner = agent.clone();
    agent.until_stopped(async move { owner.fence.outlives_no_tenure().await });
    if let Some((listener, credential)) = outside {
        agent.until_stopped(network::serve(agent.clone(), listener, credential));
    }
    let writer = tokio::spawn(writer);
    for keeper in keepers {
        agent.tasks.spawn(keeper.run());
    }
    if let Ok(browser) = agent.services.browser() {
        agent.until_stopped(browser::monitor::run(browser.clone(), agent.events.clone()));
    }
    let generation = agent.fence.generation();
    agent.events.instance_started(generation);
    tracing::info!(instance = %agent.config.instance, %generation, address = ?agent.address, "agent started");
    agent.stop.cancelled().await;
    agent.events.instance_stopping(agent.fence.generation());
    agent.fence.shut().await;
    tokio::join!(agent.processes.end_all(), agent.services.stop());
    agent.ended.cancel();
    agent.tasks.close();
    if timeout(GOODBYE, agent.tasks.wait()).await.is_err() {
        tracing::debug!("a connection did not end in time");
    }
    // After everything that may be told.
    stored.cancel();
    if timeout(LAST_EVENTS, writer).await.is_err() {
        tracing::warn!("the last events were not stored in time");
    }
    tracing::info!(instance = %agent.config.instance, "agent ended");
    Ok(())
}

impl Agent {
    /// Takes a generation that is not lower than the present one.
    ///
    /// # Errors
    ///
    /// The present generation, if that is higher.
    fn take_generation(&self, wanted: Generation) -> Result<(), Generation> {
        let had = self.fence.generation();
        self.fence.raise(wanted)?;
        // The first one of an agent that no node started is where it begins.
        if wanted > had && had > Generation(0) {
            self.events.moved(had, wanted);
        }
        Ok(())
    }

    /// Spawns a task that is dropped when the agent stops.
    fn until_stopped(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.until(self.stop.clone(), task);
    }

    /// Spawns a task that is dropped when `end` is cancelled.
    fn until(&self, end: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = task => {}
            }
        });
    }
}

async fn reap(processes: Arc<Processes>) {
    if let Err(error) = reaper::run(processes).await {
        tracing::error!(%error, "orphans are not taken in");
    }
}

/// A hang-up means nothing to an agent; SIGTERM and SIGINT end it. Handlers instead of ignoring: what is ignored would
/// be ignored by every process that the agent starts.
fn obey_signals(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send, Problem> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            tracing::error!(%error, "signals cannot be heard");
            Problem::from(ErrorCode::Internal)
        })
    };
    let mut hangup = listen(SignalKind::hangup())?;
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => {}
                _ = terminate.recv() => stop.cancel(),
                _ = interrupt.recv() => stop.cancel(),
            }
        }
    })
}
