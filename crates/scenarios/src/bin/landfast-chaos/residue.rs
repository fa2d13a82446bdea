//! What must be gone once the load is: instances, their processes, and what daemons held for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use landfast_scenarios::leaks::{Footprint, agent_of, processes_of};
use tokio::time::{Instant, sleep};

use crate::book::Book;
use crate::cell::Cell;
use crate::control::Control;
use crate::evidence::{At, Ran};
use crate::plan::{APIS, GATEWAYS, Host, NODES};

/// How long what is left may take to go: a gateway keeps an idle connection to a node for a minute.
const GOING: Duration = Duration::from_secs(100);

/// Descriptors and threads that a daemon may hold more than when it began: connections to each member of the store, and what
/// its runtime keeps of threads for the disk. A session or an instance that leaked would be one of hundreds.
const SPARE_DESCRIPTORS: usize = 12;
const SPARE_THREADS: usize = 6;

/// What each role holds.
pub(crate) type Footprints = BTreeMap<Host, Footprint>;

/// What each role holds now.
pub(crate) fn footprints(cell: &mut Cell) -> Footprints {
    let hosts = APIS.into_iter().chain(GATEWAYS).chain(NODES);
    hosts.filter_map(|host| Some((host, Footprint::of(cell.pid(host)?)))).collect()
}

/// Removes all instances and says what stays for too long.
pub(crate) async fn remains(cell: &mut Cell, control: &Control, book: &Book, before: &Footprints) -> Vec<String> {
    let mut leaks = Vec::new();
    // Also of those that have ended: what they leave stays on their host until they are deleted.
    for id in book.known() {
        if !control.delete(&id).await {
            leaks.push(format!("{id} cannot be deleted"));
        }
    }
    let deadline = Instant::now() + GOING;
    loop {
        let left = left(cell, book, before);
        if left.is_empty() || Instant::now() > deadline {
            leaks.extend(left);
            return leaks;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

fn left(cell: &mut Cell, book: &Book, before: &Footprints) -> Vec<String> {
    let mut left = Vec::new();
    for disk in cell.disks() {
        let instances = fs::read_dir(disk.join("instances")).into_iter().flatten().flatten();
        left.extend(instances.map(|entry| format!("{} is still there", entry.path().display())));
    }
    for id in book.known() {
        left.extend(agent_of(&id).map(|pid| format!("{id} has an agent still, process {pid}")));
    }
    left.extend(strangers(cell));
    for (host, now) in footprints(cell) {
        let Some(before) = before.get(&host) else { continue };
        if now.descriptors > before.descriptors + SPARE_DESCRIPTORS || now.threads > before.threads + SPARE_THREADS {
            left.push(format!("{host} holds {now}; when it began it held {before}"));
        }
    }
    left
}

/// Processes of the cell that are no daemons, and not the one that cleans up after this.
fn strangers(cell: &mut Cell) -> Vec<String> {
    let daemons: Vec<u32> =
        Host::all().into_iter().filter(|host| *host != Host::Clients).filter_map(|host| cell.pid(host)).collect();
    let others = processes_of(cell.dir()).into_iter().filter(|pid| !daemons.contains(pid));
    let named = others.map(|pid| (pid, fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()));
    let named = named.map(|(pid, line)| (pid, String::from_utf8_lossy(&line).replace('\0', " ")));
    // A process without a command line is going.
    let strange = named.filter(|(_, line)| !line.is_empty() && !line.contains("landfast-reaper"));
    strange.map(|(pid, line)| format!("process {pid} is left: {line}")).collect()
}

/// What ran, as the ledgers on the nodes' disks have it.
pub(crate) fn ran(cell: &Cell, book: &Book) -> Vec<Ran> {
    let mut ran = Vec::new();
    for disk in cell.disks() {
        for ledger in fs::read_dir(disk.join("ledgers")).into_iter().flatten().flatten() {
            let instance = ledger.file_name().to_string_lossy().into_owned();
            let text = fs::read_to_string(ledger.path()).unwrap_or_default();
            ran.extend(text.lines().filter_map(|line| entry(&instance, line, |micros| book.at(micros))));
        }
    }
    ran
}

/// A line of a ledger; one that the disk had no room for in full is none: what it was for was refused.
fn entry(instance: &str, line: &str, at: impl Fn(u64) -> At) -> Option<Ran> {
    let words: Vec<&str> = line.split(' ').collect();
    let [nonce, life, micros] = words[..] else { return None };
    // The time has its sixteen digits, or it was cut.
    let micros = (micros.len() >= 16).then(|| micros.parse().ok())??;
    Some(Ran { instance: instance.to_owned(), nonce: nonce.to_owned(), life: life.to_owned(), at: at(micros) })
}

/// Whether a folder is gone.
pub(crate) fn is_gone(path: &Path) -> bool {
    !path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledgers_line_counts_only_if_it_is_whole() {
        let at = Duration::from_micros;
        let whole = entry("ins", "n1 00ff 1790000000000000", at).unwrap();
        assert_eq!((whole.nonce.as_str(), whole.life.as_str(), whole.at), ("n1", "00ff", at(1_790_000_000_000_000)));
        for cut in ["", "n1", "n1 00ff", "n1 00ff 17900"] {
            assert_eq!(entry("ins", cut, at), None, "{cut:?}");
        }
    }
}
