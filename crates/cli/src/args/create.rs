//! What `landfast create` can be told.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use landfast_core::ServiceName;

use super::{Output, pair, seconds};

/// `landfast create`.
#[derive(Debug, Args)]
pub struct Create {
    /// What it is for
    #[arg(default_value = "sandbox")]
    pub kind: Kind,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// A variable of every process; may be repeated
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// A label its node must have; may be repeated
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = pair)]
    pub node_labels: Vec<(String, String)>,
    /// Whether it is started anew after a failure or the loss of its node
    #[arg(long, default_value = "never")]
    pub restart: Restart,
    /// Which network its processes see
    #[arg(long, default_value = "auto")]
    pub network: Network,
    /// A server that is kept running in it, on a port of its loopback; may be repeated
    #[arg(long = "service", value_name = "NAME=PORT:COMMAND LINE", value_parser = listed)]
    pub services: Vec<Listed>,
    /// Services in full, as a JSON object by name; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub service_json: Option<PathBuf>,
    /// A path that each --service answers with 2xx or 3xx once it is up [default: a connection is enough]
    #[arg(long, value_name = "PATH", requires = "services")]
    pub ready_path: Option<String>,
    /// Believe a 503 with landfast-error of its services that the request was not run
    #[arg(long)]
    pub retry_signals: bool,
    /// How many requests a second (rate), requests at once (in-flight) or sessions are let through to it; may be repeated
    #[arg(long = "limit", value_name = "NAME=N", value_parser = limit)]
    pub limits: Vec<(Limit, u32)>,
    /// Put it to sleep after so long without traffic [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub idle_timeout: Option<Duration>,
    /// A server that runs elsewhere: Landfast only leads there; may be repeated
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = outside, conflicts_with_all = ["services", "idle_timeout"])]
    pub external: Vec<Outside>,
    /// Where `landfast agent` listens beside such servers
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["services", "idle_timeout"])]
    pub external_agent: Option<String>,
    /// A flag for a browser's command line, such as --flag=--lang=de; may be repeated
    #[arg(long = "flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub flags: Vec<String>,
    /// How many seconds to wait until it runs; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub wait: Duration,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Requests per second.
    Rate,
    /// Requests that have no whole answer yet.
    InFlight,
    /// Open sessions.
    Sessions,
}

/// What an instance is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// Processes and terminals on request, and any services.
    Sandbox,
    /// One service, which sleeps while nobody needs it.
    Actor,
    /// A Chromium, which clients of CDP drive.
    Browser,
}

/// A service as `--service` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: ServiceName,
    /// Where it listens.
    pub port: u16,
    /// The command line.
    pub line: String,
}

/// A service of an external instance, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Its name.
    pub name: ServiceName,
    /// `host:port`.
    pub address: String,
}

/// Whether an instance is started anew.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Restart {
    /// It stays ended.
    Never,
    /// It is placed again, its memory lost.
    Always,
}

/// Which network an instance sees.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Network {
    /// Private for a browser if the node can, host for others.
    Auto,
    /// The node's own.
    Host,
    /// One of its own, from which the world can be reached.
    Private,
    /// Only a loopback of its own.
    None,
}

fn limit(text: &str) -> Result<(Limit, u32), String> {
    let form = "write rate=N, in-flight=N or sessions=N";
    let (name, number) = text.split_once('=').ok_or(form)?;
    let limit = match name {
        "rate" => Limit::Rate,
        "in-flight" => Limit::InFlight,
        "sessions" => Limit::Sessions,
        _ => return Err(form.to_owned()),
    };
    Ok((limit, number.parse().map_err(|_| form)?))
}

fn listed(text: &str) -> Result<Listed, String> {
    let form = "write NAME=PORT:COMMAND LINE, such as web=8080:python3 -m http.server 8080";
    let (name, rest) = text.split_once('=').ok_or(form)?;
    let (port, line) = rest.split_once(':').ok_or(form)?;
    let port = port.parse().ok().filter(|&port| port > 0).ok_or(form)?;
    if line.trim().is_empty() {
        return Err(form.to_owned());
    }
    Ok(Listed { name: service_name(name)?, port, line: line.to_owned() })
}

pub(super) fn outside(text: &str) -> Result<Outside, String> {
    let (name, address) = text.split_once('=').ok_or("write NAME=HOST:PORT, such as web=10.0.0.7:8080")?;
    Ok(Outside { name: service_name(name)?, address: address.to_owned() })
}

fn service_name(text: &str) -> Result<ServiceName, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}
