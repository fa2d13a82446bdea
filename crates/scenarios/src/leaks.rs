//! What a process holds, as the kernel counts it: nothing that it could forget to count itself.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs};

use tokio::time::{Instant, sleep};

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors.
    pub descriptors: usize,
    /// Of these, sockets.
    pub sockets: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory in bytes.
    pub resident: u64,
    /// The most that it ever was.
    pub peak: u64,
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, sockets, threads, resident, .. } = self;
        write!(f, "{descriptors} descriptors ({sockets} sockets), {threads} threads, {} KiB", resident / 1024)
    }
}

impl Footprint {
    /// What the process holds now.
    ///
    /// # Panics
    ///
    /// There is no such process.
    pub fn of(pid: u32) -> Self {
        let process = Path::new("/proc").join(pid.to_string());
        let descriptors: Vec<_> = fs::read_dir(process.join("fd"))
            .unwrap_or_else(|error| panic!("process {pid}: {error}"))
            // A descriptor may be closed between the listing and the look.
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect();
        let status = fs::read_to_string(process.join("status")).expect("a process has a status");
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a status has all its fields");
            line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
        };
        Self {
            sockets: descriptors.iter().filter(|target| target.to_string_lossy().starts_with("socket:")).count(),
            descriptors: descriptors.len(),
            threads: field("Threads:") as usize,
            resident: field("VmRSS:") * 1024,
            peak: field("VmHWM:") * 1024,
        }
    }
}

/// Waits until the process holds no more descriptors than it did, within `limit`.
///
/// # Panics
///
/// It still holds more after that time: something leaked.
pub async fn returns_to(pid: u32, before: Footprint, limit: Duration) -> Footprint {
    let deadline = Instant::now() + limit;
    loop {
        let now = Footprint::of(pid);
        if now.descriptors <= before.descriptors {
            return now;
        }
        assert!(Instant::now() < deadline, "after {limit:?} process {pid} holds {now}; before it held {before}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the process has no more threads than it had, within `limit`: those that write to the disk go when they are idle.
///
/// # Panics
///
/// It still has more after that time.
pub async fn threads_return_to(pid: u32, before: Footprint, limit: Duration) {
    let deadline = Instant::now() + limit;
    while Footprint::of(pid).threads > before.threads {
        assert!(Instant::now() < deadline, "process {pid} had {before}; now it has {}", Footprint::of(pid));
        sleep(Duration::from_millis(100)).await;
    }
}

/// The agent of an instance. In a sandbox it knows no path of the cell, but it is told its instance.
pub fn agent_of(instance: &str) -> Option<u32> {
    processes().find_map(|(pid, process)| {
        let line = fs::read(process.join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0).skip(1);
        let is_agent = words.next() == Some(b"agent") && words.any(|word| word == instance.as_bytes());
        is_agent.then_some(pid)
    })
}

/// The processes whose command line or environment names `path`: those that were started for the cell in that directory,
/// whoever started them.
pub fn processes_of(path: &Path) -> Vec<u32> {
    let needle = path.as_os_str().as_encoded_bytes();
    let names =
        |file: &Path| fs::read(file).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle));
    processes()
        .filter(|(pid, _)| *pid != std::process::id())
        .filter(|(_, process)| names(&process.join("cmdline")) || names(&process.join("environ")))
        .map(|(pid, _)| pid)
        .collect()
}

/// All processes with their folders in `/proc`.
fn processes() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/proc").expect("this is Linux").flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}
