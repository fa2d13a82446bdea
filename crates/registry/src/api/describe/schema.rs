//! The words of the records, for the description only: the records are read and written by their own types, which know
//! nothing of OpenAPI. A test holds the two together.
#![allow(dead_code, reason = "these types are only described, never made")]

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// What an instance is for.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(in crate::api) enum Kind {
    Sandbox,
    Actor,
    Browser,
}

/// What should be.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(in crate::api) enum Desired {
    Running,
    Sleeping,
    Stopped,
    Deleted,
}

/// What is. `stopped`, `failed`, `lost` and `deleted` are ends.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(in crate::api) enum Phase {
    Pending,
    Starting,
    Running,
    Moving,
    Sleeping,
    Stopped,
    Failed,
    Lost,
    Deleted,
}

/// Whether an instance that ended by a failure, or with its node, is started anew.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(in crate::api) enum Restart {
    Never,
    Always,
}

/// Which network the instance's processes see: the node's own (`host`), one of its own from which the world can be
/// reached (`private`), or none but a loopback. `auto` is `private` for a browser if its node can, and else `host`.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(in crate::api) enum Network {
    Auto,
    Host,
    Private,
    None,
}

/// How far a move has come.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(in crate::api) enum MoveStep {
    Preparing,
    Prepared,
}

/// Whether a service that ended is started again: always, unless it exited with 0, or not.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::api) enum ServiceRestart {
    Always,
    OnFailure,
    Never,
}

/// When a service counts as up: once it accepts a connection, or answers a request well.
#[derive(ToSchema)]
pub(in crate::api) struct Ready {
    /// The path of a GET that is answered with 2xx or 3xx; a connection is enough if not said.
    path: Option<String>,
    /// Seconds after which a start without readiness counts as failed; 60 if not said, 3,600 at most.
    within: Option<u64>,
}

/// A server inside an instance: a command (`argv` or `shell`) and where it listens (`port` or `socket`). Of an
/// external instance: an `address` and nothing else.
#[derive(ToSchema)]
pub(in crate::api) struct Service {
    /// The command.
    argv: Option<Vec<String>>,
    /// The command as a line for `/bin/sh -c`, instead of `argv`.
    shell: Option<String>,
    /// Its environment, over the instance's.
    env: Option<BTreeMap<String, String>>,
    /// Its directory, relative to the instance's home.
    cwd: Option<String>,
    /// The TCP port where it listens, on loopback; it finds it in `PORT`.
    port: Option<u16>,
    /// The Unix socket where it listens, relative to the instance's home, instead of `port`.
    socket: Option<String>,
    /// The address (`host:port`) of a server of an external instance, instead of all of the above.
    address: Option<String>,
    /// When it counts as up.
    ready: Option<Ready>,
    /// `always` if not said.
    restart: Option<ServiceRestart>,
    /// Whether a `503` of it with `landfast-error` is believed to say that the request was not run; `false` if not
    /// said.
    retry_signals: Option<bool>,
}

/// What a gateway lets through; the gateway's own limits where not said.
#[derive(ToSchema)]
pub(in crate::api) struct Limits {
    /// Requests per second, averaged over the last few.
    rate: Option<u32>,
    /// Requests that have no whole answer yet.
    in_flight: Option<u32>,
    /// Open sessions.
    sessions: Option<u32>,
}

/// How a browser is run.
#[derive(ToSchema)]
pub(in crate::api) struct Browser {
    /// Flags of Chromium's command line, such as `--lang=de`, after those that every browser has.
    flags: Option<Vec<String>>,
    /// Seconds for which Chromium may answer nothing before it is started anew, from 3 to 86,400; 30 if not said, and 0 for
    /// ever, for who stops it with a debugger of their own.
    unresponsive_after: Option<u64>,
}

/// Somebody else's machine, to which Landfast leads.
#[derive(ToSchema)]
pub(in crate::api) struct External {
    /// Where our agent listens there (`host:port`). Without one only the services' own addresses are reached.
    agent: Option<String>,
}

/// How an instance is to be.
#[derive(ToSchema)]
pub(in crate::api) struct InstanceSpec {
    /// `never` if not said.
    restart: Option<Restart>,
    /// `auto` if not said.
    network: Option<Network>,
    /// Environment of every process.
    env: Option<BTreeMap<String, String>>,
    /// The node must carry all of these labels.
    node_labels: Option<BTreeMap<String, String>>,
    /// Its servers, by name; 16 at most. An `actor` has exactly one.
    services: Option<BTreeMap<String, Service>>,
    /// Seconds without traffic after which it is put to sleep; never if not said.
    idle_timeout: Option<u64>,
    /// What is let through to it.
    limits: Option<Limits>,
    /// How its browser is run; only of kind `browser`.
    browser: Option<Browser>,
    /// Set if Landfast does not run it, but only leads to it.
    external: Option<External>,
}

/// A move in progress.
#[derive(ToSchema)]
pub(in crate::api) struct Move {
    /// The node that is to run the instance.
    to: String,
    /// How far it has come.
    step: MoveStep,
}

/// A refusal (RFC 9457).
#[derive(ToSchema)]
pub(in crate::api) struct Problem {
    /// A URI that names the row of the error table.
    #[schema(rename = "type")]
    kind: String,
    /// What happened, the same for every refusal of this row.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The row's code, also in the header `landfast-error`.
    #[schema(example = "instance.unknown")]
    code: String,
    /// What exactly was wrong this time.
    detail: String,
    /// What to do about it.
    advice: String,
}
