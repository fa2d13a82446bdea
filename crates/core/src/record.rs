//! The small records that every role reads, watches and compare-and-swaps in the registry store.
//!
//! They are JSON in the store. A field that a release does not know is refused on write and ignored on read, so that two
//! neighbouring releases can share a cell. What may follow what is decided by [`crate::lifecycle`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{InstanceId, NodeId, ServiceName};

/// The number of an instance's placements: only grows, and is the fencing token of ownership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an instance is for: a preset of its spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Processes and terminals on request, and any services.
    Sandbox,
    /// One supervised service, which sleeps while nobody needs it.
    Actor,
    /// A Chromium, and processes and services beside it.
    Browser,
}

/// What should be. The API writes it, and of sleep and waking also the instance's node and gateways; the node that was
/// given the instance makes it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// The agent and what it runs should be up.
    Running,
    /// Nothing of it should run until somebody wants something of it.
    Sleeping,
    /// It should end, and its record stay.
    Stopped,
    /// It should end, and only a tombstone stay.
    Deleted,
}

/// What is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No node has been chosen yet.
    Pending,
    /// A node was chosen and brings the agent up.
    Starting,
    /// The agent serves.
    Running,
    /// Between two nodes; see [`Move`].
    Moving,
    /// Nothing of it runs, and no node has it; its files stay on its host.
    Sleeping,
    /// Ended on request, the record kept.
    Stopped,
    /// Ended by itself, or could not start.
    Failed,
    /// Its node's lease lapsed.
    Lost,
    /// Ended for ever. A tombstone.
    Deleted,
}

impl Phase {
    /// Whether nothing follows this phase but `Deleted`.
    pub const fn is_end(self) -> bool {
        match self {
            Self::Pending | Self::Starting | Self::Running | Self::Moving | Self::Sleeping => false,
            Self::Stopped | Self::Failed | Self::Lost | Self::Deleted => true,
        }
    }

    /// The word used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Moving => "moving",
            Self::Sleeping => "sleeping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Deleted => "deleted",
        }
    }
}

/// How far a move has come. Each step is one compare-and-swap by the party named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveStep {
    /// Written by the API: the target is asked to prepare. The source goes on serving.
    Preparing,
    /// Written by the target: it can take over. The source now fences itself and commits, which gives the next
    /// generation to the target.
    Prepared,
}

/// A move in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The node that is to run the instance.
    pub to: NodeId,
    /// How far it has come.
    pub step: MoveStep,
}

/// Whether an instance that ended by a failure is started anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// It stays ended.
    #[default]
    Never,
    /// It is placed again with the next generation, its memory lost.
    Always,
}

/// Which network the instance's processes see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// For a browser one of its own if the node can make it, for others the node's.
    #[default]
    Auto,
    /// The node's own.
    Host,
    /// One of its own, from which the world can be reached. Needs isolation and slirp4netns.
    Private,
    /// Only a loopback of its own. Needs isolation.
    None,
}

/// What the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceSpec {
    /// Whether it is started anew after a failure or the loss of its node.
    pub restart: Restart,
    /// Which network its processes see.
    pub network: Network,
    /// Environment of every process, beneath the process's own.
    pub env: BTreeMap<String, String>,
    /// The node must carry all of these labels.
    pub node_labels: BTreeMap<String, String>,
    /// The servers inside it that the agent keeps running, or, of an external instance, the addresses of its servers.
    pub services: BTreeMap<ServiceName, Service>,
    /// Seconds without traffic after which it is put to sleep; never if absent.
    pub idle_timeout: Option<u64>,
    /// How its browser is run; present of a browser, and only of one.
    pub browser: Option<Browser>,
    /// What a gateway lets through to it; the gateway's own limits where absent.
    pub limits: Limits,
    /// Set if Landfast does not run it, but only leads to it.
    pub external: Option<External>,
}

/// A server inside an instance. Of one that the agent runs, a command and a place where it listens; of an external
/// instance, an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// The command.
    pub argv: Vec<String>,
    /// The command as a line for `/bin/sh -c`, instead of `argv`.
    pub shell: Option<String>,
    /// Its environment, over the instance's.
    pub env: BTreeMap<String, String>,
    /// Its directory, relative to the instance's home.
    pub cwd: Option<String>,
    /// The TCP port where it listens, on the loopback address that the instance sees.
    pub port: Option<u16>,
    /// The Unix socket where it listens, relative to the instance's home, instead of `port`.
    pub socket: Option<String>,
    /// The address (`host:port`) of a server of an external instance, instead of all of the above.
    pub address: Option<String>,
    /// When it counts as up.
    pub ready: Ready,
    /// Whether it is started again when it ends.
    pub restart: ServiceRestart,
    /// Whether a `503` of it with `landfast-error` is believed to say that the request was not run.
    pub retry_signals: bool,
}

/// When a service counts as up: once it accepts a connection, or answers a request well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ready {
    /// The path of a GET that is answered with 2xx or 3xx; a connection is enough if absent.
    pub path: Option<String>,
    /// Seconds after which a start without readiness counts as failed.
    pub within: u64,
}

impl Default for Ready {
    fn default() -> Self {
        Self { path: None, within: 60 }
    }
}

/// Whether a service that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceRestart {
    /// Always.
    #[default]
    Always,
    /// Unless it exited with 0.
    OnFailure,
    /// It stays down.
    Never,
}

/// How a browser is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Browser {
    /// Flags of its command line, after those that every browser has.
    pub flags: Vec<String>,
    /// Seconds for which it may answer nothing before it is started anew; 0 is for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unresponsive_after: Option<u64>,
}

/// What a gateway lets through: to one instance, or with one access token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests per second, averaged over the last few.
    pub rate: Option<u32>,
    /// Requests that have no whole answer yet.
    pub in_flight: Option<u32>,
    /// Open sessions.
    pub sessions: Option<u32>,
}

/// Somebody else's machine, to which Landfast leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct External {
    /// Where our agent listens there (`host:port`). Without one only the services' own addresses are reached, and
    /// their connections live and die with the transport.
    pub agent: Option<String>,
}

/// An instance as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The preset it was made from.
    pub kind: Kind,
    /// What the user asked for.
    pub spec: InstanceSpec,
    /// What should be.
    pub desired: Desired,
    /// What is.
    pub phase: Phase,
    /// The number of its placements so far; 0 before the first.
    pub generation: Generation,
    /// The node it was given to; none while it sleeps, and never of an external one.
    pub node: Option<NodeId>,
    /// The host of that node: moves of the `process` driver stay on one host, and so does what slept.
    pub host: Option<String>,
    /// The relay address (`host:port`) of that node; of an external one the agent's.
    pub address: Option<String>,
    /// The move in progress; present exactly in phase `moving`, except of an external one, whose platform moves it.
    #[serde(rename = "move", default)]
    pub moving: Option<Move>,
    /// Why it ended, why its last move was given up, or why no node takes it.
    pub reason: Option<String>,
    /// The user's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Unix time in milliseconds.
    pub created_at: u64,
    /// Unix time in milliseconds at which it ended; tombstones are swept a day later.
    pub ended_at: Option<u64>,
}

/// A node as the registry knows it. The key is bound to the node's lease: the record lives as long as the node does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// A short name chosen by the operator, unique in the cell.
    pub name: String,
    /// The machine it runs on: two nodes with the same host share its file system.
    pub host: String,
    /// Where gateways reach its relay: `host:port`, or `reverse:` and a hash if it cannot be dialled.
    pub address: String,
    /// The number of instances it is willing to run.
    pub capacity: u32,
    /// The operator's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// How instances are kept apart: `bubblewrap`, or `none: <why>`.
    pub isolation: String,
    /// Unix time in milliseconds at which this daemon started.
    pub started_at: u64,
}

/// An operator's word that a node is to be given nothing new. A node's own record is bound to its lease and written by
/// the node, so this stands beside it and outlives its restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Unix time in milliseconds at which it was said.
    pub since: u64,
}

/// An API server as the registry knows it, bound to its lease. Gateways send `/v1` there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiServer {
    /// Where it listens (`host:port`).
    pub address: String,
}

/// Where nodes that cannot be dialled bring spare connections, bound to the lease of whoever takes them there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReversePoint {
    /// Where it listens (`host:port`).
    pub address: String,
}

/// An access token that was taken back before it expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedToken {
    /// Unix time in seconds at which the token expires; the record is swept a week later.
    pub expires_at: u64,
}

impl RevokedToken {
    /// By how much a machine's clock may be wrong, in seconds, and jump back to what is right: a token that expired by a clock that
    /// was ahead must not be found good by another one, because nobody knows of its revocation any more.
    const CLOCK_ERROR: u64 = 7 * 24 * 60 * 60;

    /// Whether nobody needs to know of it any more, at a Unix time in seconds.
    pub const fn is_over(&self, unix_seconds: u64) -> bool {
        self.expires_at.saturating_add(Self::CLOCK_ERROR) <= unix_seconds
    }
}

/// Where each record lives in the store.
pub mod keys {
    use crate::{InstanceId, NodeId, TokenId};

    /// All instances.
    pub const INSTANCES: &str = "instances/";
    /// All live nodes.
    pub const NODES: &str = "nodes/";
    /// All nodes that an operator drains, live or not.
    pub const DRAINS: &str = "drains/";
    /// All live API servers.
    pub const APIS: &str = "apis/";
    /// All who take spare connections of nodes.
    pub const REVERSE: &str = "reverse/";
    /// All revoked tokens that have not expired.
    pub const REVOKED: &str = "revoked/";
    /// All API keys, as hashes.
    pub const API_KEYS: &str = "api-keys/";
    /// The API keys that were taken back, so that none is made known again; see [`API_KEYS`].
    pub const REMOVED_API_KEYS: &str = "removed-api-keys";
    /// The public keys that verify access tokens, by key id.
    pub const TOKEN_KEYS: &str = "token-keys/";
    /// Answers kept for `Idempotency-Key`.
    pub const IDEMPOTENCY: &str = "idempotency/";
    /// Which browser has a name that one of Kernel's clients gave it.
    pub const BROWSER_NAMES: &str = "browser-names/";
    /// All pools of browsers.
    pub const BROWSER_POOLS: &str = "browser-pools/";

    /// One instance.
    pub fn instance(id: InstanceId) -> String {
        format!("{INSTANCES}{id}")
    }

    /// One node.
    pub fn node(id: NodeId) -> String {
        format!("{NODES}{id}")
    }

    /// The drain of one node.
    pub fn drain(id: NodeId) -> String {
        format!("{DRAINS}{id}")
    }

    /// One revoked token.
    pub fn revoked(id: TokenId) -> String {
        format!("{REVOKED}{id}")
    }
}
