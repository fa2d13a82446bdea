//! Ends everything that was started for a cell in a directory, and removes it, once the test that made it is gone.
//!
//! `landfast-reaper DIRECTORY` waits for the end of its standard input: the test's end holds the other side of it, however
//! the test ends. Agents outlive their nodes by design, so nothing less would do.

use std::io::{Read, stdin};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use landfast_scenarios::leaks::processes_of;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Once is not enough: a node that is killed may just have started an agent. A second is far more than enough.
const ROUNDS: usize = 100;

fn main() -> std::io::Result<()> {
    let directory = std::env::args().nth(1).ok_or(std::io::ErrorKind::InvalidInput)?;
    stdin().read_to_end(&mut Vec::new())?;
    for _ in 0..ROUNDS {
        let left = processes_of(Path::new(&directory));
        if left.is_empty() {
            break;
        }
        for pid in left {
            // Gone already: as well.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(10));
    }
    std::fs::remove_dir_all(directory)
}
