//! What Landfast costs and how long it pauses, measured on this machine with the program that is in the tree.

mod cdp;
mod events;
mod faults;
mod figures;
mod http;
mod moves;
mod routes;
mod session;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::figures::Figures;

#[derive(Parser)]
#[command(name = "landfast-bench", about = "Measures Landfast on this machine")]
enum Bench {
    /// The session path beside a direct connection to the agent, in one run
    Session {
        /// A tenth of the work: for a look, not for a figure to quote
        #[arg(long)]
        quick: bool,
        /// How the figures are written
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// The HTTP and WebSocket path beside HAProxy and nginx, in one run
    Http {
        /// Under a minute: for a look, not for a figure to quote
        #[arg(long)]
        quick: bool,
        /// These workloads alone
        #[arg(long, value_enum)]
        only: Vec<http::Workload>,
        /// How the figures are written
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// A client of CDP straight to its browser, and through gateway, node and agent, in one run
    Cdp {
        /// Under a minute: for a look, not for a figure to quote
        #[arg(long)]
        quick: bool,
        /// How the figures are written
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// A million events of an agent to a hundred readers, one of whom stalls, and to nobody
    Events {
        /// A tenth of the work: for a look, not for a figure to quote
        #[arg(long)]
        quick: bool,
        /// How the figures are written
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// What stands behind every side of `http`
    #[command(hide = true)]
    Upstream,
    /// Ten thousand routes that change a thousand times a second under load, beside the same load over idle ones
    Routes {
        /// A tenth of the work: for a look, not for a figure to quote
        #[arg(long)]
        quick: bool,
        /// How the figures are written
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Moves of a service under load, which its clients must not notice
    Moves {
        /// How many moves
        #[arg(long, default_value_t = 50)]
        moves: usize,
    },
    /// Random faults over many sessions, every byte checked
    Faults {
        /// How many faults
        #[arg(long, default_value_t = 1_000)]
        faults: usize,
        /// How many sessions
        #[arg(long, default_value_t = 200)]
        sessions: usize,
        /// The seed; a fresh one without it
        #[arg(long)]
        seed: Option<u64>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

fn main() -> Result<ExitCode> {
    let bench = Bench::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match bench {
            Bench::Http { quick, only, output } => return http(quick, &only, output).await,
            Bench::Moves { moves } => moves::under_load(moves).await,
            Bench::Upstream => http::upstream::run()?,
            Bench::Session { quick, output } => {
                show(&session::measure(quick).await, output);
            }
            Bench::Cdp { quick, output } => {
                let figures = cdp::measure(quick).await?;
                match output {
                    Output::Text => print!("{}", figures.text()),
                    Output::Json => println!("{}", figures.values()),
                }
            }
            Bench::Events { quick, output } => {
                // It has threads and a runtime of its own.
                show(&tokio::task::spawn_blocking(move || events::measure(quick)).await?, output);
            }
            Bench::Routes { quick, output } => {
                let (figures, is_sound) = routes::measure(quick).await?;
                show(&figures, output);
                return Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Bench::Faults { faults, sessions, seed } => {
                faults::rage(faults, sessions, seed.unwrap_or_else(landfast_scenarios::seed::seed)).await;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn show(figures: &Figures, output: Output) {
    match output {
        Output::Text => print!("{}", figures.text()),
        Output::Json => println!("{}", figures.json()),
    }
}

async fn http(quick: bool, only: &[http::Workload], output: Output) -> Result<ExitCode> {
    landfast_scenarios::ground::raise_descriptor_limit();
    let report = http::measure(quick, only).await?;
    match output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", report.json()),
    }
    let mut code = ExitCode::SUCCESS;
    for wrong in report.wrong() {
        eprintln!("could not be measured: {wrong}");
        code = ExitCode::FAILURE;
    }
    Ok(code)
}
