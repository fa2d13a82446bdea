//! What others wrote, against the gateway.
//!
//! The Autobahn suite judges an echo of another hand, without the gateway and through it: no case may behave worse. h2load
//! loads a service over HTTP/2: no request may fail.
//!
//! `landfast-conformance WSTEST [--all | --case CASE]`. The short run leaves out the large messages (9) and compression (12,
//! 13), which take minutes.

mod autobahn;
mod echo;
mod h2load;
mod way;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use landfast_scenarios::cell::Plan;

use crate::autobahn::Suite;

#[derive(Parser)]
#[command(name = "landfast-conformance", about = "Runs the Autobahn suite and h2load against the gateway")]
struct Arguments {
    /// The suite's program
    wstest: PathBuf,
    /// All cases, also those that take minutes
    #[arg(long)]
    all: bool,
    /// Only these cases of the suite, such as 4.*
    #[arg(long = "case", conflicts_with = "all")]
    cases: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let cell = Plan::default().bare().start().await;
    let suite = Suite::new(arguments.wstest, arguments.cases, arguments.all);
    let servers = suite.judge_server(&cell).await?.report("the suite speaks to a server");
    let clients = suite.judge_client(&cell).await?.report("the suite speaks to a client");
    drop(cell);
    let is_clean = h2load::run().await?;
    Ok(if servers && clients && is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
