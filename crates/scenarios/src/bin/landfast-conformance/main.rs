//! What others wrote, against the gateway.
//!
//! The Autobahn suite judges an echo of another hand, without the gateway and through it: no case may behave worse. h2load
//! loads a service over HTTP/2: no request may fail.
//!
//! `landfast-conformance WSTEST [--all]`. The short run leaves out the large messages (9) and compression (12, 13), which
//! take minutes.

mod h2load;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use landfast_scenarios::cell::{Cell, Plan};
use landfast_scenarios::external;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_tungstenite::accept_async;

/// The names under which the suite reports.
const DIRECT: &str = "direct";
const THROUGH: &str = "gateway";

/// How the suite calls what it sees, from the best to the worst.
const BEHAVIOURS: [&str; 7] = ["OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "WRONG CODE", "UNCLEAN", "FAILED"];

#[derive(Parser)]
#[command(name = "landfast-conformance", about = "Runs the Autobahn suite and h2load against the gateway")]
struct Arguments {
    /// The suite's program
    wstest: PathBuf,
    /// All cases, also those that take minutes
    #[arg(long)]
    all: bool,
}

/// What the suite saw of one case.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    /// Its place in [`BEHAVIOURS`], of the case and of its closing handshake.
    rank: (usize, usize),
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let echo = echo().await?;
    let cell = Plan::default().bare().start().await;
    let through = path_through(&cell, echo).await;
    let urls = [(DIRECT, format!("ws://{echo}/")), (THROUGH, through)];
    let seen = judge(arguments, cell.dir(), &urls).await?;
    let is_as_before = report(&seen);
    drop(cell);
    let is_clean = h2load::run().await?;
    Ok(if is_as_before && is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Serves an echo on a free port.
async fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(echo_one(socket));
        }
    });
    Ok(address)
}

async fn echo_one(socket: TcpStream) {
    let Ok(mut socket) = accept_async(socket).await else { return };
    // Every error is the suite's doing, and the close frame has told it.
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn path_through(cell: &Cell, echo: SocketAddr) -> String {
    let instance = external::create(cell.dir(), &[("echo", echo)]).await;
    let token = cell.operator.token(&instance.to_string(), &json!({})).await;
    format!("ws://{}/i/{instance}/echo/?token={}", cell.gateway.address(), token.text)
}

/// Has the suite judge every URL, and reads what it saw: by name and case.
async fn judge(
    arguments: &Arguments,
    dir: &Path,
    urls: &[(&str, String)],
) -> Result<BTreeMap<String, BTreeMap<String, Seen>>> {
    let left_out: &[&str] = if arguments.all { &[] } else { &["9.*", "12.*", "13.*"] };
    let out = dir.join("autobahn");
    let servers: Vec<Value> = urls.iter().map(|(agent, url)| json!({"agent": agent, "url": url})).collect();
    let spec = json!({
        "outdir": out, "servers": servers, "cases": ["*"], "exclude-cases": left_out, "exclude-agent-cases": {},
    });
    let file = dir.join("autobahn.json");
    std::fs::write(&file, spec.to_string())?;
    let mut suite = Command::new(&arguments.wstest);
    let said = suite.args(["-m", "fuzzingclient", "-s"]).arg(&file).kill_on_drop(true).output().await;
    let said = said.with_context(|| format!("{} could not be started", arguments.wstest.display()))?;
    let index = std::fs::read_to_string(out.join("index.json"));
    let Ok(index) = index else {
        bail!("the suite wrote no report: {}", String::from_utf8_lossy(&[said.stdout, said.stderr].concat()));
    };
    read(&serde_json::from_str(&index)?)
}

fn read(index: &Value) -> Result<BTreeMap<String, BTreeMap<String, Seen>>> {
    let mut seen: BTreeMap<String, BTreeMap<String, Seen>> = BTreeMap::new();
    for (agent, cases) in index.as_object().context("the report is an object")? {
        for (case, report) in cases.as_object().context("a report has cases")? {
            let rank = |field: &str| {
                let behaviour = report[field].as_str().unwrap_or_default();
                let place = BEHAVIOURS.iter().position(|known| *known == behaviour);
                place.with_context(|| format!("{case}: {field} is {behaviour:?}"))
            };
            let rank = (rank("behavior")?, rank("behaviorClose")?);
            seen.entry(agent.clone()).or_default().insert(case.clone(), Seen { rank });
        }
    }
    Ok(seen)
}

/// Shows both sides, and says whether no case behaves worse through the gateway.
fn report(seen: &BTreeMap<String, BTreeMap<String, Seen>>) -> bool {
    let (direct, through) = (&seen[DIRECT], &seen[THROUGH]);
    println!("{:<14} {:>8} {:>8}", "", DIRECT, THROUGH);
    for (rank, behaviour) in BEHAVIOURS.iter().enumerate() {
        let count = |cases: &BTreeMap<String, Seen>| cases.values().filter(|seen| seen.rank.0 == rank).count();
        println!("{behaviour:<14} {:>8} {:>8}", count(direct), count(through));
    }
    let worse: Vec<&String> = direct
        .iter()
        .filter(|(case, straight)| {
            through.get(*case).is_none_or(|seen| seen.rank.0 > straight.rank.0 || seen.rank.1 > straight.rank.1)
        })
        .map(|(case, _)| case)
        .collect();
    println!("{} cases; worse through the gateway: {worse:?}", direct.len());
    worse.is_empty() && !direct.is_empty()
}
