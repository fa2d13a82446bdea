//! A real cell on many hosts, under load and under faults drawn from a seed, and a judge at the end: what was lost, doubled, run
//! twice, answered by the wrong owner, told untruly, not attached again, or left behind.

mod book;
mod cell;
mod control;
mod evidence;
mod ground;
mod load;
mod plan;
mod report;
mod residue;
mod strike;
mod talk;
mod verdict;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use landfast_scenarios::fault_relay::FaultRelay;
use landfast_scenarios::namespaces;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::book::Book;
use crate::cell::Cell;
use crate::control::Control;
use crate::evidence::Evidence;
use crate::load::Load;
use crate::report::Report;
use crate::strike::Striker;

/// Places for instances with their clients: what two processors carry with room to spare.
const PLACES: usize = 6;

/// How long all places may take to have their first instance.
const SETTLING: Duration = Duration::from_secs(120);

/// How long is listened after the faults before clients begin to leave: longer than a session may take to go on.
const LISTENING: Duration = Duration::from_secs(12);

/// How long clients may take to come to their end: the longest session, and as much again.
const ENDING: Duration = Duration::from_secs(120);

/// Says that this is inside already. Roles do not see it: nothing that begins so reaches them.
const INSIDE: &str = "LANDFAST_CHAOS_INSIDE";

#[derive(Parser)]
#[command(name = "landfast-chaos", about = "Strikes a cell on many hosts with faults, and judges what came of it")]
struct Chaos {
    /// For how many minutes faults strike
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// The seed; a fresh one without it
    #[arg(long)]
    seed: Option<u64>,
    /// How the verdict is written
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Only show what would strike when
    #[arg(long)]
    plan: bool,
    /// Where logs are kept if anything is found [default: chaos/seed-SEED in the target directory]
    #[arg(long)]
    logs: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

fn main() -> Result<ExitCode> {
    let chaos = Chaos::parse();
    if !(0.1..=24.0 * 60.0).contains(&chaos.minutes) {
        bail!("{} minutes: from 0.1 to a day", chaos.minutes);
    }
    let seed = chaos.seed.unwrap_or_else(|| rand::random_range(0..1 << 32));
    let strokes = plan::draw(seed, Duration::from_secs_f64(chaos.minutes * 60.0));
    if chaos.plan {
        for stroke in strokes {
            println!("{:8.2} {:6.2} {:?}", stroke.at.as_secs_f64(), stroke.lasts.as_secs_f64(), stroke.fault);
        }
        return Ok(ExitCode::SUCCESS);
    }
    mounts_of_its_own()?;
    eprintln!("seed {seed}: {} faults in {} minutes", strokes.len(), chaos.minutes);
    namespaces::sweep();
    // One thread: it is the one that goes to where the clients are.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            report = run(&chaos, seed, &strokes) => report,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })?;
    eprint!("{}", report.first_findings());
    match chaos.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", report.json()),
    }
    if let Some(logs) = &report.logs {
        eprintln!("logs and findings are in {}", logs.display());
    }
    Ok(if report.verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Goes on in a namespace of mounts of its own, as the same process: what is mounted here is seen by nobody else and goes with the
/// last process of the run, and nobody else can take it off.
fn mounts_of_its_own() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "--"]).arg(std::env::current_exe()?);
    let error = unshare.args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
    Err(error).context("unshare could not be started")
}

async fn run(chaos: &Chaos, seed: u64, strokes: &[plan::Stroke]) -> Result<Report> {
    let mut cell = Cell::start().await.context("the cell does not start")?;
    let folder = cell.dir().to_owned();
    let (evidence, kept) = {
        let evidence = drive(&mut cell, seed, strokes).await?;
        let logs = cell.logs();
        (evidence, logs)
    };
    let mut verdict = verdict::judge(&evidence);
    let mut report = Report { seed, minutes: chaos.minutes, verdict: verdict.clone(), logs: None };
    if !verdict.is_clean() {
        let logs = chaos.logs.clone().map_or_else(|| default_logs(seed), Ok)?;
        report::keep(&logs, &kept, &report.findings(usize::MAX), &evidence)?;
        report.logs = Some(logs);
    }
    drop(cell);
    for name in namespaces::beginning_with(&namespaces::prefix()) {
        verdict.leaks.push(format!("the namespace {name} is left"));
    }
    if !residue::is_gone(&folder) {
        verdict.leaks.push(format!("{} is left", folder.display()));
    }
    Ok(Report { verdict, ..report })
}

/// Starts the load, strikes, waits for all clients, and looks at what is left.
async fn drive(cell: &mut Cell, seed: u64, strokes: &[plan::Stroke]) -> Result<Evidence> {
    let book = Book::open();
    let control = Control { key: cell.key.clone(), book: Arc::clone(&book) };
    let before = residue::footprints(cell);
    let lines = [FaultRelay::start().await?, FaultRelay::start().await?];
    lines.iter().zip([1, 2]).for_each(|(line, number)| line.lead_to(Cell::gateway(number)));

    let mut helpers = JoinSet::new();
    helpers.spawn(cell::supply(cell.disks()));
    let listener = Arc::clone(&book);
    helpers.spawn(async move { listener.listens().await });

    let (end, ending) = watch::channel(false);
    let settled = Arc::new(watch::Sender::new(0));
    let mut settling = settled.subscribe();
    let load = Load {
        book: Arc::clone(&book),
        control: control.clone(),
        lines: [lines[0].address(), lines[1].address()],
        ending,
        settled,
    };
    let mut places = JoinSet::new();
    for place in 0..PLACES {
        places.spawn(load.clone().keeps(place, seed));
    }
    timeout(SETTLING, settling.wait_for(|settled| *settled == PLACES)).await.context("instances do not start")??;

    let striker = Striker::new(cell, control.clone(), &lines, book.started);
    let (struck, crashes) = striker.rage(strokes).await?;
    book.is_quiet();
    eprintln!("the faults are over; the clients come to their end");
    sleep(LISTENING).await;
    end.send_replace(true);
    let ends = async {
        while let Some(place) = places.join_next().await {
            place.expect("no client panics");
        }
    };
    // Who does not come to an end is found by what it has not written down.
    let _ = timeout(ENDING, ends).await;
    places.shutdown().await;
    drop(lines);

    let leaks = residue::remains(cell, &control, &book, &before).await;
    let ran = residue::ran(cell, &book);
    Ok(Evidence { struck, crashes, leaks, ran, ..book.close() })
}

fn default_logs(seed: u64) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let target = here.parent().and_then(|folder| folder.parent()).context("this program is in a target directory")?;
    Ok(target.join("chaos").join(format!("seed-{seed}")))
}
