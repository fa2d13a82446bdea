//! `landfast-sim`: plays many seeds, and says which ones break an invariant.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use landfast_sim::owners::{Explored, World, explore};
use landfast_sim::scale::{Outage, Renewals, Storm, renewals, storm};
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
    /// Looks instead at every state of one lease, one claim and one move, however late anything is
    #[arg(long)]
    owners: bool,
    /// How many questions about the lease may be late at once: two take some minutes and ten gigabytes
    #[arg(long, default_value_t = 1, requires = "owners", value_parser = clap::value_parser!(u8).range(1..=2))]
    late: u8,
    /// Plays instead what very many sessions and nodes do at once, and prints the figures
    #[arg(long, conflicts_with = "owners")]
    scale: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.owners {
        return explore_owners(args.late);
    }
    if args.scale {
        show_scale(args.start);
        return ExitCode::SUCCESS;
    }
    let (start, seeds) = args.seed.map_or((args.start, args.seeds), |seed| (seed, 1));
    let config = Config { trace: args.trace, ..Config::default() };
    let begun = Instant::now();
    let Totals { failed, counts, tally } = play(start, seeds, args.jobs.clamp(1, 64), config);
    print!("what was done:\n{counts}what came of it:\n{tally}");
    println!("{seeds} seeds from {start} in {:.1} s: {failed} failed", begun.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Clocks at their worst, both ways, and clocks that agree.
fn explore_owners(late: u8) -> ExitCode {
    for (node, registry) in [(90, 110), (100, 100), (110, 90)] {
        let begun = Instant::now();
        let Explored { states, story } = explore(World { node, registry, late: late.into() }, None);
        let seconds = begun.elapsed().as_secs_f64();
        println!("clocks at {node} and {registry} per cent: {states} states in {seconds:.1} s");
        if let Some(story) = story {
            println!("two nodes serve one instance:\n  {}", story.join("\n  "));
            return ExitCode::FAILURE;
        }
    }
    println!("in none of them do two nodes serve one instance");
    ExitCode::SUCCESS
}

/// Outages of a node, by how many sessions it had and how fast it takes them back; then nodes that renew.
fn show_scale(seed: u64) {
    println!("sessions  away s  taken/s      dials  peak away  peak back  timed out   half s   99 % s    all s  ended");
    for sessions in [1_000, 10_000, 100_000] {
        for (seconds, takes_back) in [(1, 4_000), (10, 4_000), (40, 4_000), (10, 1_000)] {
            let outage = Outage { sessions, lasts: Duration::from_secs(seconds), takes_back };
            let Storm { dials, peak_away, peak_back, timed_out, back, ended } = storm(outage, seed);
            let [half, most, all] = back.map(|time| time.as_secs_f64());
            println!(
                "{sessions:>8} {seconds:>7} {takes_back:>8} {dials:>10} {peak_away:>10} {peak_back:>10} {timed_out:>10} \
                 {half:>8.2} {most:>8.2} {all:>8.2} {ended:>6}"
            );
        }
    }
    println!("\n   nodes  registry away s  renewals/s  peak in 100 ms  peak after  fenced");
    for nodes in [100, 1_000, 5_000] {
        for seconds in [1, 5, 30] {
            let Renewals { mean, peak, peak_back, fenced } = renewals(nodes, Duration::from_secs(seconds), seed);
            println!("{nodes:>8} {seconds:>16} {mean:>11.1} {peak:>15} {peak_back:>11} {fenced:>7}");
        }
    }
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
