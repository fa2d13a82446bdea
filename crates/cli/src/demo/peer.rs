//! What the demo runs inside its instance: says numbered blocks, checks numbered blocks, both at once.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::args::DemoPeer;
use crate::demo::numbers::{BLOCK, Listener, Speaker, Tally};
use crate::failure::Failure;

/// Between two pieces: short enough that a pause of the network is not drowned in a pause of ours.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// What the peer found, as the one line it writes to standard error at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// What it said.
    pub(crate) said: Direction,
    /// What it heard.
    pub(crate) heard: Direction,
}

/// One direction, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Direction {
    bytes: u64,
    sha256: String,
    lost: u64,
    doubled: u64,
}

impl From<Tally> for Direction {
    fn from(Tally { bytes, sha256, lost, doubled }: Tally) -> Self {
        Self { bytes, sha256, lost, doubled }
    }
}

impl From<Direction> for Tally {
    fn from(Direction { bytes, sha256, lost, doubled }: Direction) -> Self {
        Self { bytes, sha256, lost, doubled }
    }
}

/// How many blocks are said in a tick.
pub(crate) const fn blocks_per_tick(bytes_per_second: u64) -> usize {
    let bytes = bytes_per_second * TICK.as_millis() as u64 / 1000;
    if bytes < BLOCK as u64 { 1 } else { bytes as usize / BLOCK }
}

/// Says blocks until its input ends, and then what it found.
///
/// # Errors
///
/// An input or output that fails.
pub(crate) fn run(args: &DemoPeer) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::local(format!("The demo's peer cannot go on: {error}."));
    let ended = AtomicBool::new(false);
    let (said, heard) = thread::scope(|scope| {
        let heard = scope.spawn(|| {
            let heard = hear(args.seed + 1);
            ended.store(true, Ordering::Relaxed);
            heard
        });
        let said = say(args.seed, blocks_per_tick(args.bytes_per_second), &ended);
        (said, heard.join().expect("listening does not panic"))
    });
    let findings = Findings { said: said.map_err(failed)?.into(), heard: heard.map_err(failed)?.into() };
    let line = serde_json::to_string(&findings).expect("findings are plain data");
    writeln!(io::stderr(), "{line}").map_err(failed)
}

fn say(seed: u64, blocks: usize, ended: &AtomicBool) -> io::Result<Tally> {
    let (mut speaker, started) = (Speaker::new(seed), Instant::now());
    let mut ticks = 0;
    while !ended.load(Ordering::Relaxed) {
        io::stdout().write_all(&speaker.say(blocks))?;
        io::stdout().flush()?;
        ticks += 1;
        thread::sleep((started + TICK * ticks).saturating_duration_since(Instant::now()));
    }
    Ok(speaker.tally())
}

fn hear(seed: u64) -> io::Result<Tally> {
    let (mut listener, mut piece) = (Listener::new(seed), vec![0; 64 * 1024]);
    loop {
        match io::stdin().read(&mut piece)? {
            0 => return Ok(listener.tally()),
            n => listener.hear(&piece[..n]),
        }
    }
}
