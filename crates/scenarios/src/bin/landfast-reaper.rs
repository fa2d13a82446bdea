//! Ends everything that was started for a cell in a directory, and removes it, once the test that made it is gone.
//!
//! `landfast-reaper DIRECTORY [PREFIX]` waits for the end of its standard input: the test's end holds the other side of it, however
//! the test ends. With a prefix the namespaces of the network go too whose names begin so. Agents outlive their nodes by design, so nothing less would do.

use std::io::{Read, stdin};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use landfast_scenarios::leaks::processes_of;
use landfast_scenarios::namespaces;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Once is not enough: a node that is killed may just have started an agent. A second is far more than enough.
const ROUNDS: usize = 100;

fn main() -> std::io::Result<()> {
    let directory = std::env::args().nth(1).ok_or(std::io::ErrorKind::InvalidInput)?;
    let prefix = std::env::args().nth(2).filter(|prefix| !prefix.is_empty());
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
    if let Some(prefix) = prefix {
        namespaces::remove(&prefix);
    }
    unmount_below(&directory);
    std::fs::remove_dir_all(directory)
}

/// Takes off what was mounted in the directory, the last first.
fn unmount_below(directory: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for place in places.filter(|place| place.starts_with(directory)).collect::<Vec<_>>().into_iter().rev() {
        // What stays mounted is told by the removal.
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
}
