//! `landfast-sim`: plays many seeds, and says which ones break an invariant.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use landfast_sim::{Config, Counts, Outcome, Tally, run};

/// Plays the whole cell under faults, one seed after the other, and judges each run
#[derive(Parser)]
#[command(name = "landfast-sim", version)]
struct Args {
    /// How many seeds to play
    #[arg(long, default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    start: u64,
    /// Plays this one only
    #[arg(long)]
    seed: Option<u64>,
    /// Prints everything that happens; for one seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How many threads play
    #[arg(long, default_value_t = 2)]
    jobs: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (start, seeds) = args.seed.map_or((args.start, args.seeds), |seed| (seed, 1));
    let config = Config { trace: args.trace, ..Config::default() };
    let begun = Instant::now();
    let Totals { failed, counts, tally } = play(start, seeds, args.jobs.clamp(1, 64), config);
    print!("what was done:\n{counts}what came of it:\n{tally}");
    println!("{seeds} seeds from {start} in {:.1} s: {failed} failed", begun.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Totals {
    failed: u64,
    counts: Counts,
    tally: Tally,
}

fn play(start: u64, seeds: u64, jobs: u64, config: Config) -> Totals {
    let (next, totals) = (AtomicU64::new(start), Mutex::new(Totals::default()));
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= start + seeds {
                return;
            }
            // A machine that panics has failed like one that breaks an invariant.
            let outcome = catch_unwind(|| run(seed, config)).ok();
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = &outcome {
                totals.counts.add(&outcome.counts);
                totals.tally.add(&outcome.tally);
            }
            if let Some(what) = failure(outcome.as_ref()) {
                totals.failed += 1;
                println!("seed {seed} {what}; replay it with: landfast-sim --seed {seed} --trace");
            }
        }
    };
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(worker))));
    totals.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn failure(outcome: Option<&Outcome>) -> Option<String> {
    match outcome {
        None => Some("panics".to_owned()),
        Some(outcome) => outcome.violations.first().map(|first| format!("breaks {first}")),
    }
}
