//! What the scenarios run inside instances: says numbered bytes and checks numbered bytes, both at once.
//!
//! `landfast-numbers SEED BYTES [BYTES_PER_SECOND]` says `ready`, then the stream of SEED on standard output, while it
//! expects the stream of SEED + 1 on standard input; both are BYTES long. Then it says in a line what became of the
//! input, and exits with 0 only if that was right. A terminal is made raw first, so that it changes no byte.

use std::io::{Read, Write, stdin, stdout};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use landfast_scenarios::numbers::{Checker, Numbers};
use rustix::termios::{OptionalActions, isatty, tcgetattr, tcsetattr};

/// How many bytes are said at once: small enough that a paced stream flows evenly.
const PIECE: u64 = 4096;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut number = |name| arguments.next().transpose()?.with_context(|| format!("{name} is missing"));
    let (seed, bytes) = (number("SEED")?, number("BYTES")?);
    let rate = number("BYTES_PER_SECOND").ok();
    if isatty(stdin()) {
        let mut modes = tcgetattr(stdin())?;
        modes.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &modes)?;
    }
    stdout().write_all(b"ready\n")?;
    stdout().flush()?;
    let saying = thread::spawn(move || say(Numbers::new(seed), bytes, rate));
    let heard = hear(Numbers::new(seed + 1), bytes);
    saying.join().expect("saying does not panic")?;
    let right = heard.is_ok();
    let verdict = heard.map_or_else(|wrong| format!("{wrong:#}"), |()| "all is right".to_owned());
    stdout().write_all(format!("\ninput: {verdict}\n").as_bytes())?;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(numbers: Numbers, bytes: u64, rate: Option<u64>) -> Result<()> {
    let started = Instant::now();
    let mut buffer = vec![0; PIECE as usize];
    let mut said = 0;
    while said < bytes {
        let piece = &mut buffer[..PIECE.min(bytes - said) as usize];
        numbers.fill(said, piece);
        stdout().write_all(piece)?;
        said += piece.len() as u64;
        if let Some(rate) = rate {
            let due = started + Duration::from_secs_f64(said as f64 / rate as f64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(stdout().flush()?)
}

fn hear(numbers: Numbers, bytes: u64) -> Result<()> {
    let mut checker = Checker::new(numbers);
    let mut buffer = vec![0; 64 * 1024];
    while checker.right() < bytes {
        let most = buffer.len().min((bytes - checker.right()) as usize);
        match stdin().read(&mut buffer[..most])? {
            0 => break,
            n => checker.take(&buffer[..n])?,
        }
    }
    Ok(checker.finish(bytes)?)
}
