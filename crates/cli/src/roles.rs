//! The roles as processes: configured in layers, ready with one line on standard output, stopped by a signal.

use std::path::Path;
use std::sync::Arc;

use landfast_core::{ErrorCode, Problem};
use landfast_gateway::Stop;
use landfast_net::role::CancellationToken;
use landfast_registry::cell::Cell;
use landfast_registry::store::Store;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use toml::{Table, Value};

use crate::args::{Agent, Api, Gateway, Global, Node};
use crate::config::Layers;
use crate::failure::Failure;
use crate::print::line;
use crate::reach::data_dir;

/// What the roles of one process share.
pub(crate) struct Ground {
    /// The data directory and its secrets.
    pub(crate) cell: Arc<Cell>,
    /// The cell's store.
    pub(crate) store: Arc<dyn Store>,
    /// The settings.
    pub(crate) layers: Layers,
}

impl Ground {
    /// Opens the data directory, making what is missing, and reads the settings.
    ///
    /// # Errors
    ///
    /// What the operator has to correct.
    pub(crate) fn open(global: &Global, config: Option<&Path>) -> Result<Self, Failure> {
        let layers = Layers::read(config, std::env::vars())?;
        let cell = Cell::open(&data_dir(global))?;
        let store = cell.store_at(global.store.as_deref().filter(|address| !address.is_empty()))?;
        Ok(Self { cell: Arc::new(cell), store, layers })
    }

    /// The settings of the API with its flags.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`].
    pub(crate) fn api(&self, flags: &Flags) -> Result<landfast_registry::api::Config, Problem> {
        self.layers.role("api", &flags.0)
    }

    /// The settings of the gateway with its flags.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`].
    pub(crate) fn gateway(&self, flags: Flags) -> Result<landfast_gateway::Config, Problem> {
        self.layers.role("gateway", &flags.with("data", Some(&self.cell.dir))?.0)
    }

    /// The settings of the node with its flags.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`].
    pub(crate) fn node(&self, flags: Flags) -> Result<landfast_node::Config, Problem> {
        self.layers.role("node", &flags.with("data", Some(&self.cell.dir))?.0)
    }
}

/// The settings that flags say.
#[derive(Debug, Default)]
pub(crate) struct Flags(Table);

impl Flags {
    /// Adds a flag, if it was given.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`] for a value that no configuration can hold, such as a path that is not UTF-8.
    pub(crate) fn with<T: Serialize>(mut self, key: &str, value: Option<T>) -> Result<Self, Problem> {
        if let Some(value) = value {
            let value = Value::try_from(value);
            let value = value.map_err(|error| Problem::new(ErrorCode::ConfigInvalid, format!("{key}: {error}.")))?;
            self.0.insert(key.to_owned(), value);
        }
        Ok(self)
    }
}

/// `landfast api`.
///
/// # Errors
///
/// Why it did not start, or ended by itself.
pub(crate) async fn api(global: &Global, args: Api) -> Result<(), Failure> {
    let ground = Ground::open(global, args.config.as_deref())?;
    let config = ground.api(&Flags::default().with("listen", args.listen)?.with("relay_listen", args.relay_listen)?)?;
    let stops = Stops::listen()?;
    let running = landfast_registry::api::start(config, ground.cell, ground.store, stops.stop.drain.clone()).await?;
    line(&format!("ready api {}\n", running.address));
    stops.wait_for(running.done, "API server").await
}

/// `landfast gateway`.
///
/// # Errors
///
/// Why it did not start, or ended by itself.
pub(crate) async fn gateway(global: &Global, args: Gateway) -> Result<(), Failure> {
    let ground = Ground::open(global, args.config.as_deref())?;
    let config =
        ground.gateway(Flags::default().with("listen", args.listen)?.with("relay_listen", args.relay_listen)?)?;
    let stops = Stops::listen()?;
    let running = landfast_gateway::start(config, &ground.cell, ground.store, stops.stop.clone()).await?;
    line(&format!("ready gateway {}\n", running.address));
    stops.wait_for(running.done, "gateway").await
}

/// `landfast node`.
///
/// # Errors
///
/// Why it did not start, or ended by itself.
pub(crate) async fn node(global: &Global, args: Node) -> Result<(), Failure> {
    let ground = Ground::open(global, args.config.as_deref())?;
    let labels: Table = args.labels.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
    let flags = Flags::default()
        .with("name", args.name)?
        .with("listen", args.listen)?
        .with("advertise", args.advertise)?
        .with("reverse", args.reverse.then_some(true))?
        .with("capacity", args.capacity)?
        .with("labels", Some(labels).filter(|labels| !labels.is_empty()))?;
    let config = ground.node(flags)?;
    let stops = Stops::listen()?;
    let credential = ground.cell.credential().clone();
    let running = landfast_node::start(config, credential, ground.store, stops.stop.drain.clone()).await?;
    line(&format!("ready node {}\n", running.address));
    stops.wait_for(running.done, "node").await
}

/// `landfast agent`.
///
/// # Errors
///
/// Why it did not start.
pub(crate) async fn agent(args: Agent) -> Result<(), Failure> {
    let config = landfast_agent::Config::from_arguments(args.arguments())?;
    Ok(landfast_agent::run(config, CancellationToken::new()).await?)
}

/// The signals that stop a role: the first one in good order, the second one now.
pub(crate) struct Stops {
    /// What they turn into.
    pub(crate) stop: Stop,
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    /// Hears them from now on.
    ///
    /// # Errors
    ///
    /// The system does not let us.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let hear = |kind| signal(kind).map_err(|error| Failure::local(format!("Signals cannot be heard: {error}.")));
        let stop = Stop { drain: CancellationToken::new(), now: CancellationToken::new() };
        Ok(Self { stop, interrupt: hear(SignalKind::interrupt())?, terminate: hear(SignalKind::terminate())? })
    }

    /// The next of them. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Lets a role work until it has stopped.
    async fn wait_for(mut self, mut done: JoinHandle<()>, role: &str) -> Result<(), Failure> {
        tokio::select! {
            _ = &mut done => return Err(Failure::local(format!("The {role} ended by itself; its log says why."))),
            () = self.next() => self.stop.drain.cancel(),
        }
        tokio::select! {
            _ = &mut done => Ok(()),
            () = self.next() => {
                self.stop.now.cancel();
                Err(Failure::local(format!("The {role} was ended before it had finished.")))
            }
        }
    }
}
