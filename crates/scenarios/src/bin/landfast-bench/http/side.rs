//! The sides: our gateway, HAProxy and nginx, each with one worker on the same processor, before the same upstream.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use landfast_scenarios::cell::Operator;
use landfast_scenarios::external;
use landfast_scenarios::ground::Ground;
use landfast_scenarios::peer::{Configuration, Peer};
use landfast_scenarios::role::{Role, Settings};
use serde_json::json;

use super::pin::Processors;
use super::usage::family;

/// The gateway's and the peers' names, in the order of their turns.
pub(crate) const NAMES: [&str; 3] = ["ours", "haproxy", "nginx"];

/// The service's name in the instance.
const SERVICE: &str = "bench";

/// A day, the most a token can last: longer than any measurement.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// One side, to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) pids: Vec<u32>,
}

/// All that is started for a measurement. It ends with the value.
#[derive(Debug)]
pub(crate) struct Stage {
    processors: Processors,
    upstream: Upstream,
    api: Role,
    gateway: Role,
    haproxy: Option<Peer>,
    nginx: Option<Peer>,
    /// What every request begins with, whoever gets it.
    prefix: String,
    token: String,
    ground: Ground,
}

#[derive(Debug)]
struct Upstream {
    child: Child,
    address: SocketAddr,
}

impl Stage {
    /// Starts the upstream, a cell, and an instance that leads to that upstream.
    pub(crate) async fn start() -> Result<Self> {
        let processors = Processors::choose()?;
        processors.enter_others()?;
        let ground = Ground::new();
        let upstream = Upstream::start()?;
        let api = Role::start("api", "0", ground.path(), listening(None)).await;
        processors.enter_measured()?;
        // Its access log is off, as the peers' are.
        let gateway = Role::start_at("warn", "gateway", "0", ground.path(), listening(Some("1"))).await;
        processors.enter_others()?;
        let instance = external::create(ground.path(), &[(SERVICE, upstream.address)]).await;
        let key = std::fs::read_to_string(ground.path().join("api-key")).context("the API writes its first key")?;
        let operator = Operator { address: api.address(), key: key.trim().to_owned(), dir: ground.path().to_owned() };
        let token = operator.token(&instance.to_string(), &json!({"ttl_seconds": TOKEN_SECONDS})).await;
        Ok(Self {
            processors,
            upstream,
            api,
            gateway,
            haproxy: None,
            nginx: None,
            prefix: format!("/i/{instance}/{SERVICE}"),
            token: token.text,
            ground,
        })
    }

    /// Starts every side anew: one process differs from the next in how its memory lies, by more than what is measured.
    pub(crate) async fn start_sides_anew(&mut self) -> Result<[Side; 3]> {
        (self.haproxy, self.nginx) = (None, None);
        self.processors.enter_measured()?;
        self.gateway.restart().await;
        let configuration =
            |template| Configuration { template, upstream: self.upstream.address, dir: self.ground.path() };
        let haproxy = self.haproxy.insert(Peer::haproxy(configuration(include_str!("haproxy.cfg")))?);
        let nginx = self.nginx.insert(Peer::nginx(configuration(include_str!("nginx.conf")))?);
        self.processors.enter_others()?;
        let sides = [
            (self.gateway.address(), self.gateway.pid()),
            (haproxy.address(), haproxy.pid()),
            (nginx.address(), nginx.pid()),
        ];
        let named = NAMES.into_iter().zip(sides);
        let sides: Vec<Side> =
            named.map(|(name, (address, pid))| Side { name, address, pids: family(&[pid]) }).collect();
        Ok(sides.try_into().expect("as many as there are names"))
    }

    /// The processes that are neither a side's nor a stranger's.
    pub(crate) fn helpers(&self) -> Vec<u32> {
        vec![self.upstream.child.id(), self.api.pid(), std::process::id()]
    }

    /// The bytes of a request, the same for every side.
    pub(crate) fn request(&self, path: &str, headers: &str) -> Vec<u8> {
        format!(
            "GET {}{path} HTTP/1.1\r\nHost: bench.example.test\r\nUser-Agent: landfast-bench\r\nAccept: */*\r\n\
             Authorization: Bearer {}\r\n{headers}\r\n",
            self.prefix, self.token
        )
        .into_bytes()
    }
}

impl Upstream {
    fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("upstream").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("the upstream could not be started")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is a pipe")).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().parse().context("the upstream says where it listens")? })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // It ends however it is asked to; how matters to nobody.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listening(workers: Option<&str>) -> Settings {
    let workers = workers.map(|count| ("workers", count.to_owned()));
    [("listen", "127.0.0.1:0".to_owned())].into_iter().chain(workers).collect()
}
