//! What Landfast costs and how long it pauses, measured on this machine with the program that is in the tree.

mod faults;
mod figures;
mod session;

use anyhow::Result;
use clap::{Parser, ValueEnum};

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

fn main() -> Result<()> {
    let bench = Bench::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match bench {
            Bench::Session { quick, output } => {
                let figures = session::measure(quick).await;
                match output {
                    Output::Text => print!("{}", figures.text()),
                    Output::Json => println!("{}", figures.json()),
                }
            }
            Bench::Faults { faults, sessions, seed } => {
                faults::rage(faults, sessions, seed.unwrap_or_else(landfast_scenarios::seed::seed)).await;
            }
        }
    });
    Ok(())
}
